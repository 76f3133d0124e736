"""How well embeddings suit labelled data: a linear probe with a documented protocol (extra ``probe``)."""

from serab_byols.probe.confusion_plot import draw_confusion
from serab_byols.probe.probing import probe
from serab_byols.probe.results import (
    Difference,
    FewShotResult,
    FoldResult,
    Prediction,
    ProbeResult,
    as_json,
    as_text,
)

__all__ = [
    "Difference",
    "FewShotResult",
    "FoldResult",
    "Prediction",
    "ProbeResult",
    "as_json",
    "as_text",
    "draw_confusion",
    "probe",
]
