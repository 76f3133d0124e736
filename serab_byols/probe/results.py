"""Results of a probe: as objects, as text, and as JSON."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from serab_byols._version import __version__
from serab_byols.errors import InvalidInputError

PACKAGES = ("torch", "numpy", "scikit-learn")
TEXT_WIDTH = 80
MOST_FOLDS = 10
"""With more folds than that, the text gives the range of their scores."""


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
class FewShotResult:
    """Scores after training on a few clips of each label; see :mod:`serab_byols.probe.few_shot`.

    Attributes:
        shots: clips drawn of each label.
        accuracy, uar: mean over draws.
        accuracy_std, uar_std: standard deviation over draws (of a sample: divided by draws - 1).
        accuracies, uars: draw by draw, each of all test predictions.
        n_fits, n_unfinished: fits, and those among them that had not converged.
    """

    shots: int
    accuracy: float
    accuracy_std: float
    uar: float
    uar_std: float
    accuracies: tuple[float, ...]
    uars: tuple[float, ...]
    n_fits: int
    n_unfinished: int


@dataclass(frozen=True)
class Prediction:
    """True and predicted label of a test clip; its group is None where the manifest has none."""

    file: str
    fold: str
    label: str
    predicted: str
    group: str | None


@dataclass(frozen=True)
class Difference:
    """By how much scores exceed those of other features, on the same clips.

    Attributes:
        other: name of the other features.
        accuracy, uar: ours minus the other's.
        accuracy_interval, uar_interval: 95 %, by paired bootstrap; None where nothing can be resampled.
    """

    other: str
    accuracy: float
    uar: float
    accuracy_interval: Interval | None
    uar_interval: Interval | None


@dataclass(frozen=True, repr=False)
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
        few_shot: scores after training on a few clips of each label, where they were asked for.
        folds: scores fold by fold.
        confusion: counts of test clips, int64 (K, K); rows are true labels, columns predicted ones.
        predictions: one for each test clip, fold by fold.
        difference: from the first features that were probed with these; None for those.
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
    few_shot: FewShotResult | None
    folds: tuple[FoldResult, ...]
    confusion: np.ndarray
    predictions: tuple[Prediction, ...]
    difference: Difference | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.task!r}, {self.features!r}: {self.n_clips} clips, "
            f"{len(self.labels)} labels, {len(self.folds)} folds,\n"
            f"  accuracy {self.accuracy:.3f} {_interval(self.accuracy_interval)}, "
            f"UAR {self.uar:.3f} {_interval(self.uar_interval)}, chance {self.chance:.3f})"
        )


def as_text(results: Sequence[ProbeResult]) -> str:
    """Each task's protocol, where it is not that of the task before, its scores, and notes; 80 columns.

    Raises:
        InvalidInputError: not a list of results.
    """
    _check_results(results)
    tasks = [list(of_task) for _, of_task in groupby(results, attrgetter("task"))]
    protocols = [of_task[0].protocol for of_task in tasks]
    return "\n\n".join(
        "\n".join(_task_lines(of_task, None if protocol == last else protocol))
        for of_task, protocol, last in zip(tasks, protocols, [None, *protocols])
    )


def _check_results(results: object) -> None:
    if not isinstance(results, Sequence) or not all(isinstance(result, ProbeResult) for result in results):
        raise InvalidInputError(f"this takes a list of results of probe, got {type(results).__name__}")


def _task_lines(results: list[ProbeResult], protocol: dict[str, str] | None) -> Iterator[str]:
    first = results[0]
    groups = f", {first.n_groups} groups" if first.n_groups < first.n_clips else ""
    yield (
        f"{first.task}: {first.n_clips} clips, {len(first.labels)} labels{groups}; "
        f"chance: accuracy {first.chance:.3f}, UAR {1 / len(first.labels):.3f}"
    )
    steps = protocol or {"protocol": "as above"}
    yield from (_wrapped(f"{step}: {words}") for step, words in steps.items())
    yield ""
    for result in results:
        yield from _score_lines(result)
    notes = dict.fromkeys(note for result in results for note in result.notes)
    if notes:
        yield ""
        yield from (_wrapped(f"note: {note}") for note in notes)


def _score_lines(result: ProbeResult) -> Iterator[str]:
    cs, scores = ([getattr(fold, name) for fold in result.folds] for name in ("c", "accuracy"))
    c = f"{cs[0]:g}" if len(set(cs)) == 1 else f"{min(cs):g}-{max(cs):g}"
    by_fold = " ".join(f"{score:.3f}" for score in scores)
    yield f"  {result.features}"
    yield (
        f"    accuracy {result.accuracy:.3f} {_interval(result.accuracy_interval)}, "
        f"UAR {result.uar:.3f} {_interval(result.uar_interval)}, C {c}"
    )
    yield f"    accuracy by fold {by_fold if len(scores) <= MOST_FOLDS else _range(scores)}"
    if result.difference is not None:
        yield from _difference_lines(result.difference)
    if result.few_shot is not None:
        few = result.few_shot
        yield (
            f"    {few.shots} clips a label: accuracy {few.accuracy:.3f} ± {few.accuracy_std:.3f}, "
            f"UAR {few.uar:.3f} ± {few.uar_std:.3f}"
        )


def _difference_lines(difference: Difference) -> Iterator[str]:
    words = [
        f"{name} {score:+.3f} "
        + (f"({interval.low:+.3f} to {interval.high:+.3f})" if interval else "(no interval)")
        for name, score, interval in (
            ("accuracy", difference.accuracy, difference.accuracy_interval),
            ("UAR", difference.uar, difference.uar_interval),
        )
    ]
    line = f"difference from {difference.other}: {', '.join(words)}"
    yield textwrap.fill(line, TEXT_WIDTH, initial_indent="    ", subsequent_indent="      ")


def _interval(interval: Interval | None) -> str:
    return "(no interval)" if interval is None else f"({_range(interval)})"


def _range(scores: Sequence[float]) -> str:
    return f"{min(scores):.3f} to {max(scores):.3f}"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, TEXT_WIDTH, initial_indent="  ", subsequent_indent="    ")


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

    Raises:
        InvalidInputError: not a list of results.
    """
    _check_results(results)
    packages = {name: version(name) for name in PACKAGES}
    return {
        "manifest": None if manifest is None else os.fspath(manifest),
        "skipped": [{"file": file, "error": error} for file, error in skipped],
        "versions": {"python": platform.python_version(), "serab-byols": __version__, **packages},
        "results": [_result(result) for result in results],
    }


def _result(result: ProbeResult) -> dict[str, Any]:
    values = {**asdict(result), "confusion": result.confusion.tolist()}
    for scores in filter(None, (values, values["difference"])):
        for name in ("accuracy_interval", "uar_interval"):
            scores[name] = scores[name] and scores[name]._asdict()
    return values
