"""One task, one kind of features: fit every split, score all predictions together.

scikit-learn is imported with this module, which :func:`probe` does only when it runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from serab_byols.probe import few_shot
from serab_byols.probe.bootstrap import CONFIDENCE, N_RESAMPLES, bootstrap_intervals, clusters_of
from serab_byols.probe.features import Progress
from serab_byols.probe.manifest import Task, encoded, in_order
from serab_byols.probe.recall import unweighted_average_recall
from serab_byols.probe.results import FewShotResult, FoldResult, Prediction, ProbeResult
from serab_byols.probe.splitting import N_DRAWS, Plan, Split

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty that are tried: from almost no fit to almost no penalty."""

FALLBACK_C = 1e-2
"""Used where there are too few clips or groups to choose on."""

MAX_ITERATIONS = 3000


class Fit(NamedTuple):
    """What one fit predicts, with which C, and whether it converged."""

    predicted: np.ndarray
    """Labels of the test clips as integers, int64 (n_test,)."""
    c: float
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
    if c is None and split.inner:
        n_correct = np.zeros(len(C_GRID), dtype=np.int64)
        for train, test in split.inner:
            fits = _fit_path(features, labels, train, test, C_GRID)
            n_correct += [int((fit.predicted == labels[test]).sum()) for fit in fits]
        c = C_GRID[int(n_correct.argmax())]  # argmax: the first of equals
    (fit,) = _fit_path(features, labels, split.train, split.test, [FALLBACK_C if c is None else c])
    return fit


def _fit_path(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, cs: Sequence[float]
) -> list[Fit]:
    """A fit for each C, from strong penalty to weak.

    Each starts from the one before. Where there are more features than clips, they are rotated to their
    principal components, of which there are only as many as clips. The L2 penalty does not change under
    rotation: predictions are the same, and two to three times sooner than by a grid search over the
    pipeline (600 clips, D = 2048).
    """
    rotation = PCA(svd_solver="full") if features.shape[1] > len(train) else None
    scaler = make_pipeline(StandardScaler(), rotation)
    regression = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    fits = []
    # The products are small: threads would wait for each other, on a busy machine most of the time.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # noted in the result
        train_features, test_features = (
            scaler.fit_transform(features[train]),
            scaler.transform(features[test]),
        )
        for c in cs:
            regression.set_params(C=c).fit(train_features, labels[train])
            converged = bool(regression.n_iter_.max() < MAX_ITERATIONS)
            fits.append(Fit(regression.predict(test_features), c, converged))
    return fits


def evaluate(
    task: Task,
    plan: Plan,
    features: np.ndarray,
    *,
    name: str,
    description: dict[str, Any],
    c: float | None = None,
    shots: int | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> ProbeResult:
    """Probe one task.

    Args:
        task: N clips.
        plan: the splits of that task.
        features: float (N, D), in the order of the clips.
        name, description: of the features, for the report.
        c: inverse strength of the penalty; by default chosen in every fold.
        shots, n_draws: also few-shot scores; see :mod:`serab_byols.probe.few_shot`.
        seed: of the bootstrap and the draws.
        on_progress: called before the first and after every fold.
    """
    labels = tuple(in_order(task.labels))
    truth = encoded(task.labels)
    fits: list[Fit] = []
    stage = f"folds, {task.name}, {name}"
    if on_progress is not None:
        on_progress(stage, 0, len(plan.splits))
    for split in plan.splits:
        fits.append(fit_split(features, truth, split, c))
        if on_progress is not None:
            on_progress(stage, len(fits), len(plan.splits))
    tested = np.concatenate([split.test for split in plan.splits])
    predicted = np.concatenate([fit.predicted for fit in fits])
    folds = [split.name for split in plan.splits for _ in split.test]
    group = task.columns.get("group")
    clusters = clusters_of([None] * len(truth) if group is None else group)
    intervals = bootstrap_intervals(truth[tested], predicted, clusters[tested], seed)
    protocol = _protocol(plan, c, seed, "clips" if group is None else "groups")
    of_few: FewShotResult | None = None
    if shots is not None:
        of_few = few_shot.few_shot(features, truth, plan, shots, n_draws, seed)
        protocol["few-shot"] = few_shot.protocol(shots, n_draws, seed)
    return ProbeResult(
        task=task.name,
        features=name,
        description=description,
        protocol=protocol,
        labels=labels,
        n_clips=len(truth),
        n_groups=len(np.unique(clusters)),
        chance=float(np.bincount(truth[tested]).max() / len(tested)),
        accuracy=float(accuracy_score(truth[tested], predicted)),
        uar=unweighted_average_recall(truth[tested], predicted),
        accuracy_interval=intervals[0] if intervals else None,
        uar_interval=intervals[1] if intervals else None,
        few_shot=of_few,
        folds=tuple(_fold_result(split, truth[split.test], fit) for split, fit in zip(plan.splits, fits)),
        confusion=confusion_matrix(truth[tested], predicted, labels=range(len(labels))),
        predictions=tuple(
            Prediction(
                task.segments[i].file, fold, task.labels[i], labels[k], None if group is None else group[i]
            )
            for i, fold, k in zip(tested, folds, predicted)
        ),
        difference=None,
        notes=(
            *plan.notes,
            *_notes(plan, fits, c),
            *([] if intervals else ["all test clips are of one group: there is no interval"]),
            *([] if of_few is None else few_shot.notes(of_few, truth, plan)),
        ),
    )


def _fold_result(split: Split, truth: np.ndarray, fit: Fit) -> FoldResult:
    return FoldResult(
        name=split.name,
        n_train=len(split.train),
        n_test=len(split.test),
        c=fit.c,
        accuracy=float(accuracy_score(truth, fit.predicted)),
        uar=unweighted_average_recall(truth, fit.predicted),
    )


def _protocol(plan: Plan, c: float | None, seed: int, resampled: str) -> dict[str, str]:
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
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap of the test predictions, {resampled} "
        f"drawn with replacement {N_RESAMPLES} times (seed {seed})",
    }


def _notes(plan: Plan, fits: list[Fit], c: float | None) -> list[str]:
    fallen_back = [split.name for split in plan.splits if c is None and not split.inner]
    unfinished = [split.name for split, fit in zip(plan.splits, fits) if not fit.converged]
    notes = []
    if fallen_back:
        names = ", ".join(fallen_back)
        notes.append(f"fold {names}: too few clips or groups to choose C on, used {FALLBACK_C:g}")
    if unfinished:
        notes.append(f"fold {', '.join(unfinished)}: the fit did not converge")
    return notes
