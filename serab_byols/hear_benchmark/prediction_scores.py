"""HEAR's scores by their names in a task's metadata (arXiv 2203.03022, section 4)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serab_byols.errors import InvalidInputError, missing_extra
from serab_byols.hear_benchmark.event_scores import event_based_f_measure, segment_error_rate

SEMITONES = 12


@dataclass(frozen=True)
class Score:
    """How well predictions fit what is true.

    Attributes:
        name: as in ``task_metadata.json``.
        compute: of predictions and truth, and the task's labels: clips as arrays (n_clips, K) of
            probabilities and of 0 and 1, or events by file. Returns named values; the first is the one to
            select by.
        higher_is_better: or an error.
        of_events: of events, not of whole clips.
    """

    name: str
    compute: Callable[[Any, Any, Sequence[str]], Mapping[str, float]]
    higher_is_better: bool = True
    of_events: bool = False

    def __call__(self, predictions: Any, truth: Any, labels: Sequence[str]) -> dict[str, float]:
        """The score's value under its name; where it has several, those too, as ``name_part``."""
        values = self.compute(predictions, truth, labels)
        first, *others = values.items()
        named = {self.name: first[1]}
        if others:
            named |= {f"{self.name}_{part}": value for part, value in values.items()}
        return named


def score_of_name(name: str) -> Score:
    """The score of that name.

    Raises:
        InvalidInputError: there is none.
    """
    if name not in SCORES:
        raise InvalidInputError(f"unknown score {name!r}; the scores are {', '.join(SCORES)}")
    return SCORES[name]


def top1_accuracy(predictions: np.ndarray, truth: np.ndarray) -> float:
    """Share of clips whose most probable label is the true one."""
    return float((predictions.argmax(axis=1) == truth.argmax(axis=1)).mean())


def chroma_accuracy(predictions: np.ndarray, truth: np.ndarray) -> float:
    """As :func:`top1_accuracy` of pitches in order, but an octave off is correct too."""
    return float((predictions.argmax(axis=1) % SEMITONES == truth.argmax(axis=1) % SEMITONES).mean())


def mean_average_precision(predictions: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of each label's ranking of the clips, averaged over the labels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label without clips counts 0
        return float(_metrics().average_precision_score(truth, predictions, average="macro"))


def area_under_roc(predictions: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of each label, averaged; NaN if some label has no clips, or all."""
    return float(np.mean(_areas(predictions, truth)))


def d_prime(predictions: np.ndarray, truth: np.ndarray) -> float:
    """Distance of two unit Gaussians that would give the areas under the labels' ROC curves, averaged."""
    from scipy.special import ndtri

    distances = ndtri(_areas(predictions, truth)) * math.sqrt(2)
    with np.errstate(invalid="ignore"):  # one label infinitely well, another infinitely badly
        return float(np.mean(distances))


def _areas(predictions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    has_both = (truth.min(axis=0) == 0) & (truth.max(axis=0) == 1)
    if not has_both.all():
        return np.full(truth.shape[1], math.nan)
    return np.atleast_1d(_metrics().roc_auc_score(truth, predictions, average=None))


def check_can_score() -> None:
    """Refuse before the work what could not be scored after it.

    Raises:
        MissingExtraError: scikit-learn (which brings scipy) is not there.
    """
    _metrics()


def _metrics() -> Any:
    try:
        import sklearn.metrics
    except ImportError:
        raise missing_extra("scikit-learn", "hear", "the HEAR evaluation") from None
    return sklearn.metrics


def _of_clips(name: str, function: Callable[[np.ndarray, np.ndarray], float]) -> Score:
    return Score(name, lambda predictions, truth, _: {name: function(predictions, truth)})


def _of_events(name: str, collar_s: float, offset_share: float | None = None) -> Score:
    def compute(detected: Any, actual: Any, _: Sequence[str]) -> Mapping[str, float]:
        return event_based_f_measure(detected, actual, collar_s, offset_share)._asdict()

    return Score(name, compute, of_events=True)


SCORES = {
    score.name: score
    for score in (
        _of_clips("top1_acc", top1_accuracy),
        _of_clips("pitch_acc", top1_accuracy),
        _of_clips("chroma_acc", chroma_accuracy),
        _of_clips("mAP", mean_average_precision),
        _of_clips("d_prime", d_prime),
        _of_clips("aucroc", area_under_roc),
        _of_events("event_onset_200ms_fms", 0.2),
        _of_events("event_onset_50ms_fms", 0.05),
        _of_events("event_onset_offset_50ms_20perc_fms", 0.05, 0.2),
        Score(
            "segment_1s_er",
            lambda detected, actual, labels: {
                "error_rate": segment_error_rate(detected, actual, labels, 1.0)
            },
            higher_is_better=False,
            of_events=True,
        ),
    )
}
"""By name."""
