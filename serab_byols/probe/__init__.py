"""How well embeddings suit labelled data: a linear probe with a stated protocol (extra ``probe``)."""

from serab_byols.probe.evaluation import FoldResult, Prediction, ProbeResult
from serab_byols.probe.figures import draw_confusion
from serab_byols.probe.probing import probe
from serab_byols.probe.report import as_json, as_text

__all__ = ["FoldResult", "Prediction", "ProbeResult", "as_json", "as_text", "draw_confusion", "probe"]
