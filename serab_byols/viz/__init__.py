"""Pictures of embeddings: plots on matplotlib axes, and a page to explore a corpus with."""

from serab_byols.viz.embedding_plot import plot_embeddings
from serab_byols.viz.explorer_page import write_explorer
from serab_byols.viz.timestamp_plot import plot_timestamps

__all__ = ["plot_embeddings", "plot_timestamps", "write_explorer"]
