"""Results of a probe: as objects, as a table of text, and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from serab_byols._version import __version__

PACKAGES = ("torch", "numpy", "scikit-learn")
HEADINGS = ("features", "accuracy", "95 % interval", "UAR", "95 % interval", "C", "accuracy by fold")
MOST_FOLDS = 10
"""With more folds than that, the table gives the range of their scores."""


class Interval(NamedTuple):
    """Ends of a 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class FoldResult:
    """Scores of one fold.

    Attributes:
        name: of the fold.
        n_train, n_test: number of clips.
        c: inverse strength of the penalty.
        accuracy, uar: of its test clips; UAR over the labels that occur among them.
    """

    name: str
    n_train: int
    n_test: int
    c: float
    accuracy: float
    uar: float


@dataclass(frozen=True)
class Prediction:
    """True and predicted label of a test clip."""

    file: str
    fold: str
    label: str
    predicted: str


@dataclass(frozen=True)
class ProbeResult:
    """How well a linear classifier predicts the labels of a task from some features.

    Attributes:
        task: its name.
        features: name of the model or the baseline.
        description: facts about it, JSON-serialisable.
        protocol: what was done, in words, by step.
        labels: the K labels, in the order of ``confusion``.
        n_clips, n_groups: in the task; without groups every clip counts as one.
        chance: share of the most common label among the test clips, the accuracy of always predicting it.
        accuracy: share of all test clips that are correctly classified.
        uar: unweighted average recall of all test clips, over the labels that occur among them. Schuller,
            Steidl and Batliner, *The INTERSPEECH 2009 Emotion Challenge*; the same as balanced accuracy.
        accuracy_interval, uar_interval: 95 %, by bootstrap; None where nothing can be resampled.
        folds: scores fold by fold.
        confusion: counts of test clips, int64 (K, K); rows are true labels, columns predicted ones.
        predictions: one for each test clip, fold by fold.
        notes: what a reader of the scores should know.
    """

    task: str
    features: str
    description: dict[str, Any]
    protocol: dict[str, str]
    labels: tuple[str, ...]
    n_clips: int
    n_groups: int
    chance: float
    accuracy: float
    uar: float
    accuracy_interval: Interval | None
    uar_interval: Interval | None
    folds: tuple[FoldResult, ...]
    confusion: np.ndarray
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]


def as_text(results: Sequence[ProbeResult]) -> str:
    """A table per task: the protocol, a line for each model or baseline, and notes."""
    return "\n\n".join(_task_text(list(of_task)) for _, of_task in groupby(results, attrgetter("task")))


def _task_text(results: list[ProbeResult]) -> str:
    first = results[0]
    groups = f", {first.n_groups} groups" if first.n_groups < first.n_clips else ""
    lines = [
        f"{first.task}: {first.n_clips} clips, {len(first.labels)} labels{groups}; "
        f"chance: accuracy {first.chance:.3f}, UAR {1 / len(first.labels):.3f}",
        *(f"  {step}: {words}" for step, words in first.protocol.items()),
        "",
        *_columns([HEADINGS, *map(_cells, results)]),
    ]
    notes = dict.fromkeys(note for result in results for note in result.notes)
    if notes:
        lines += ["", *(f"  note: {note}" for note in notes)]
    return "\n".join(lines)


def _cells(result: ProbeResult) -> tuple[str, ...]:
    cs = [fold.c for fold in result.folds]
    scores = [fold.accuracy for fold in result.folds]
    return (
        result.features,
        f"{result.accuracy:.3f}",
        _interval(result.accuracy_interval),
        f"{result.uar:.3f}",
        _interval(result.uar_interval),
        f"{cs[0]:g}" if len(set(cs)) == 1 else f"{min(cs):g} to {max(cs):g}",
        " ".join(f"{score:.3f}" for score in scores)
        if len(scores) <= MOST_FOLDS
        else f"{min(scores):.3f} to {max(scores):.3f}",
    )


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def as_json(
    results: Sequence[ProbeResult],
    *,
    manifest: str | os.PathLike[str] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """All results, in types that :func:`json.dumps` takes.

    Args:
        results: from :func:`probe`.
        manifest: its path, for the record.
        skipped: files of clips that could not be read, and why.
    """
    packages = {name: version(name) for name in PACKAGES}
    return {
        "manifest": None if manifest is None else os.fspath(manifest),
        "skipped": [{"file": file, "error": error} for file, error in skipped],
        "versions": {"python": platform.python_version(), "serab-byols": __version__, **packages},
        "results": [_result(result) for result in results],
    }


def _result(result: ProbeResult) -> dict[str, Any]:
    values = {**asdict(result), "confusion": result.confusion.tolist()}
    for name in ("accuracy_interval", "uar_interval"):
        values[name] = values[name] and values[name]._asdict()
    return values
