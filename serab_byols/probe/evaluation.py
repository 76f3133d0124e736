"""One task, one kind of features: fit every split, judge all predictions together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serab_byols.probe.linear import C_GRID, FALLBACK_C, MAX_ITERATIONS, fit_split
from serab_byols.probe.manifest import Task, encoded, in_order
from serab_byols.probe.scores import (
    CONFIDENCE,
    N_RESAMPLES,
    Interval,
    accuracy,
    bootstrap_intervals,
    confusion_matrix,
    unweighted_average_recall,
)
from serab_byols.probe.splitting import Plan, Split


@dataclass(frozen=True)
class FoldResult:
    """Scores of one fold.

    Attributes:
        name: of the fold.
        n_train, n_test: clips.
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
    """What the probe said of one test clip, as labels."""

    file: str
    fold: str
    label: str
    predicted: str


@dataclass(frozen=True)
class ProbeResult:
    """How well a linear probe tells the labels of a task from some features.

    Attributes:
        task: its name.
        features: name of the model or the baseline.
        description: facts about it, JSON-serialisable.
        protocol: what was done, in words, by step.
        labels: the K labels, in the order of ``confusion``.
        n_clips, n_groups: in the task; without groups every clip counts as one.
        chance: share of the commonest label among the test clips, which always saying it would get.
        accuracy: share of all test clips told right.
        uar: unweighted average recall of all test clips, over the labels that occur among them.
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


def evaluate(
    task: Task,
    plan: Plan,
    features: np.ndarray,
    *,
    name: str,
    description: dict[str, Any],
    c: float | None = None,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
) -> ProbeResult:
    """Probe one task.

    Args:
        task: N clips.
        plan: of that task.
        features: float (N, D), of the clips in their order.
        name, description: of the features, for the report.
        c: inverse strength of the penalty; by default chosen in every fold.
        seed: of the bootstrap.
        on_fold: called with the number of folds done.
    """
    labels = tuple(in_order(task.labels))
    truth = encoded(task.labels)
    folds, predicted, unchosen, unfinished = [], [], [], []
    for n_done, split in enumerate(plan.splits, start=1):
        fitted = fit_split(features, truth, split, c)
        folds.append(_fold_result(split, truth, fitted.predicted, fitted.c, len(labels)))
        predicted.append(fitted.predicted)
        if c is None and not fitted.chosen:
            unchosen.append(split.name)
        if not fitted.converged:
            unfinished.append(split.name)
        if on_fold is not None:
            on_fold(n_done)
    tested = np.concatenate([split.test for split in plan.splits])
    said = np.concatenate(predicted)
    confusion = confusion_matrix(truth[tested], said, len(labels))
    intervals = bootstrap_intervals(truth[tested], said, plan.clusters[tested], seed)
    return ProbeResult(
        task=task.name,
        features=name,
        description=description,
        protocol=_protocol(plan, c, seed),
        labels=labels,
        n_clips=len(truth),
        n_groups=len(np.unique(plan.clusters)),
        chance=float(confusion.sum(axis=1).max() / confusion.sum()),
        accuracy=accuracy(confusion),
        uar=unweighted_average_recall(confusion),
        accuracy_interval=None if intervals is None else intervals[0],
        uar_interval=None if intervals is None else intervals[1],
        folds=tuple(folds),
        confusion=confusion,
        predictions=_predictions(task, plan, labels, said),
        notes=(*plan.notes, *_fit_notes(unchosen, unfinished), *_interval_notes(intervals)),
    )


def _fold_result(
    split: Split, truth: np.ndarray, predicted: np.ndarray, c: float, n_labels: int
) -> FoldResult:
    confusion = confusion_matrix(truth[split.test], predicted, n_labels)
    return FoldResult(
        name=split.name,
        n_train=len(split.train),
        n_test=len(split.test),
        c=c,
        accuracy=accuracy(confusion),
        uar=unweighted_average_recall(confusion),
    )


def _predictions(task: Task, plan: Plan, labels: tuple[str, ...], said: np.ndarray) -> tuple[Prediction, ...]:
    clips = [(i, split.name) for split in plan.splits for i in split.test]
    return tuple(
        Prediction(task.segments[i].file, fold, task.labels[i], labels[number])
        for (i, fold), number in zip(clips, said)
    )


def _protocol(plan: Plan, c: float | None, seed: int) -> dict[str, str]:
    """What was done, step by step, in words that can go into a paper."""
    grid = ", ".join(f"{value:g}" for value in C_GRID)
    return {
        "splits": plan.outer,
        "features": "standardised to mean 0 and variance 1 over the training clips",
        "classifier": "multinomial logistic regression with an L2 penalty, fitted by L-BFGS "
        f"(at most {MAX_ITERATIONS} iterations), all clips weighing the same",
        "c": f"{c:g}, fixed"
        if c is not None
        else f"of {grid} the best in accuracy, the smallest of equals, on {plan.inner}",
        "scores": "of all test predictions together",
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap of the test predictions, {plan.cluster_name} "
        f"drawn with replacement {N_RESAMPLES} times (seed {seed})",
    }


def _fit_notes(unchosen: list[str], unfinished: list[str]) -> list[str]:
    notes = []
    if unchosen:
        notes.append(
            f"fold {', '.join(unchosen)}: too few clips or groups to choose C on, took {FALLBACK_C:g}"
        )
    if unfinished:
        notes.append(f"fold {', '.join(unfinished)}: the fit did not converge")
    return notes


def _interval_notes(intervals: object) -> list[str]:
    return ["all test clips are of one group: there is no interval"] if intervals is None else []
