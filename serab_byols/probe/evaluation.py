"""One task, one kind of features: fit every split, score all predictions together.

scikit-learn is imported with this module, which :func:`probe` does only when it runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, make_scorer, recall_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from serab_byols.probe.bootstrap import CONFIDENCE, N_RESAMPLES, bootstrap_intervals
from serab_byols.probe.manifest import Task, encoded, in_order
from serab_byols.probe.results import FoldResult, Prediction, ProbeResult
from serab_byols.probe.splitting import Plan, Split

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty that are tried: from almost no fit to almost no penalty."""

FALLBACK_C = 1e-2
"""Used where there are too few clips or groups to choose on."""

MAX_ITERATIONS = 3000
_C = "logisticregression__C"


@dataclass(frozen=True)
class Fit:
    """Result of one fit.

    Attributes:
        predicted: labels of the test clips, as integers, int64 (n_test,).
        c: the one used.
        chosen: whether it was chosen, rather than given or fallen back to.
        converged: whether the final fit converged.
    """

    predicted: np.ndarray
    c: float
    chosen: bool
    converged: bool


def fit_split(features: np.ndarray, labels: np.ndarray, split: Split, c: float | None = None) -> Fit:
    """Fit the training clips of a split and predict its test clips.

    Args:
        features: float (N, D).
        labels: integers, int64 (N,).
        split: its inner splits serve to choose C: most of their test clips correctly classified, of
            equals the smallest C, which is the strongest penalty.
        c: fixes it instead.
    """
    features = features.astype(np.float64)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    chosen = c is None and len(split.inner) > 0
    # The products are small: threads would wait for each other, on a busy machine most of the time.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the caller notes it
        if chosen:
            # Counts rather than shares, since inner folds are of unequal size. Of equals the first wins.
            n_correct = make_scorer(accuracy_score, normalize=False)
            search = GridSearchCV(pipeline, {_C: C_GRID}, scoring=n_correct, cv=split.inner, refit=False)
            c = search.fit(features, labels).best_params_[_C]
        elif c is None:
            c = FALLBACK_C
        pipeline.set_params(**{_C: c}).fit(features[split.train], labels[split.train])
        predicted = pipeline.predict(features[split.test])
    return Fit(predicted, float(c), chosen, bool(pipeline[-1].n_iter_.max() < MAX_ITERATIONS))


def unweighted_average_recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the labels in ``truth``: balanced accuracy, also where others are predicted."""
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


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
        plan: the splits of that task.
        features: float (N, D), in the order of the clips.
        name, description: of the features, for the report.
        c: inverse strength of the penalty; by default chosen in every fold.
        seed: of the bootstrap.
        on_fold: called with the number of folds done.
    """
    labels = tuple(in_order(task.labels))
    truth = encoded(task.labels)
    fits = []
    for n_done, split in enumerate(plan.splits, start=1):
        fits.append(fit_split(features, truth, split, c))
        if on_fold is not None:
            on_fold(n_done)
    tested = np.concatenate([split.test for split in plan.splits])
    predicted = np.concatenate([fit.predicted for fit in fits])
    folds = [split.name for split in plan.splits for _ in split.test]
    intervals = bootstrap_intervals(truth[tested], predicted, plan.clusters[tested], seed)
    return ProbeResult(
        task=task.name,
        features=name,
        description=description,
        protocol=_protocol(plan, c, seed),
        labels=labels,
        n_clips=len(truth),
        n_groups=len(np.unique(plan.clusters)),
        chance=float(np.bincount(truth[tested]).max() / len(tested)),
        accuracy=float(accuracy_score(truth[tested], predicted)),
        uar=unweighted_average_recall(truth[tested], predicted),
        accuracy_interval=None if intervals is None else intervals[0],
        uar_interval=None if intervals is None else intervals[1],
        folds=tuple(_fold_result(split, truth[split.test], fit) for split, fit in zip(plan.splits, fits)),
        confusion=confusion_matrix(truth[tested], predicted, labels=range(len(labels))),
        predictions=tuple(
            Prediction(task.segments[i].file, fold, task.labels[i], labels[k])
            for i, fold, k in zip(tested, folds, predicted)
        ),
        notes=(*plan.notes, *_notes(plan, fits, c), *([] if intervals else [_NO_INTERVAL])),
    )


_NO_INTERVAL = "all test clips are of one group: there is no interval"


def _fold_result(split: Split, truth: np.ndarray, fit: Fit) -> FoldResult:
    return FoldResult(
        name=split.name,
        n_train=len(split.train),
        n_test=len(split.test),
        c=fit.c,
        accuracy=float(accuracy_score(truth, fit.predicted)),
        uar=unweighted_average_recall(truth, fit.predicted),
    )


def _protocol(plan: Plan, c: float | None, seed: int) -> dict[str, str]:
    """What was done, step by step, in words that can go into a paper."""
    grid = ", ".join(f"{value:g}" for value in C_GRID)
    choice = f"the one of {grid} with the best accuracy, the smallest of equals, on {plan.inner}"
    return {
        "splits": plan.outer,
        "features": "standardised to mean 0 and variance 1 over the training clips",
        "classifier": "multinomial logistic regression with an L2 penalty, fitted by L-BFGS "
        f"(at most {MAX_ITERATIONS} iterations), all clips weighted equally",
        "c": choice if c is None else f"{c:g}, fixed",
        "scores": "of all test predictions together",
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap of the test predictions, {plan.cluster_name} "
        f"drawn with replacement {N_RESAMPLES} times (seed {seed})",
    }


def _notes(plan: Plan, fits: list[Fit], c: float | None) -> list[str]:
    named = list(zip([split.name for split in plan.splits], fits))
    fallen_back = [name for name, fit in named if c is None and not fit.chosen]
    unfinished = [name for name, fit in named if not fit.converged]
    notes = []
    if fallen_back:
        names = ", ".join(fallen_back)
        notes.append(f"fold {names}: too few clips or groups to choose C on, used {FALLBACK_C:g}")
    if unfinished:
        notes.append(f"fold {', '.join(unfinished)}: the fit did not converge")
    return notes
