"""Audio files to segments to records to tables."""

from serab_byols.corpus.batch_embedder import BatchEmbedder
from serab_byols.corpus.dataset import DatasetSummary, embed_dataset
from serab_byols.corpus.embedding import embed_audio, embed_file, embed_files
from serab_byols.corpus.record import Record

__all__ = [
    "BatchEmbedder",
    "DatasetSummary",
    "Record",
    "embed_audio",
    "embed_dataset",
    "embed_file",
    "embed_files",
]
