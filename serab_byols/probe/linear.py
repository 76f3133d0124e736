"""The linear probe: standardised features, logistic regression, C chosen within the training clips."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serab_byols.probe.splitting import Split

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty that are tried: from almost no fit to almost no penalty."""

FALLBACK_C = 1e-2
"""Used where there are too few clips or groups to choose on."""

MAX_ITERATIONS = 3000


@dataclass(frozen=True)
class Fitted:
    """What one fit tells of its test clips.

    Attributes:
        predicted: labels as numbers, int64 (n_test,).
        c: the one used.
        chosen: whether it was chosen, rather than given or fallen back to.
        converged: whether the fit that predicts came to an end.
    """

    predicted: np.ndarray
    c: float
    chosen: bool
    converged: bool


def fit_split(
    features: np.ndarray,
    labels: np.ndarray,
    split: Split,
    c: float | None = None,
    grid: Sequence[float] = C_GRID,
) -> Fitted:
    """Fit the training clips of a split and predict its test clips.

    Args:
        features: float (N, D).
        labels: numbers, int64 (N,).
        split: positions of clips; its inner splits serve to choose C, by the share of their clips told
            right; of equals the smallest, the strongest penalty, is taken.
        c: fixes it instead.
        grid: to choose from, ascending.
    """
    chosen = c is None and len(split.inner) > 0
    if c is None:
        c = _best_c(features, labels, split, grid) if chosen else FALLBACK_C
    (predicted,), converged = _predictions(features, labels, split.train, split.test, [c])
    return Fitted(predicted, c, chosen, converged)


def _best_c(features: np.ndarray, labels: np.ndarray, split: Split, grid: Sequence[float]) -> float:
    n_right = np.zeros(len(grid), dtype=np.int64)
    for train, test in split.inner:
        predictions, _ = _predictions(features, labels, train, test, grid)
        n_right += [int((predicted == labels[test]).sum()) for predicted in predictions]
    return grid[int(n_right.argmax())]  # argmax: the first of equals


def _predictions(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, cs: Sequence[float]
) -> tuple[list[np.ndarray], bool]:
    """Predicted labels (n_test,) for each C, and whether the last fit converged.

    Each fit starts from the one before, from strong penalty to weak: the solution is the same, the
    way to it shorter.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    train_features, test_features = _standardized(features, train, test)
    regression: Any = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    predictions = []
    # The products are small: threads would wait for each other, on a busy machine most of the time.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported by the caller
        for c in cs:
            regression.set_params(C=c).fit(train_features, labels[train])
            predictions.append(regression.predict(test_features))
    return predictions, bool(regression.n_iter_.max() < MAX_ITERATIONS)


def _standardized(features: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features with mean 0 and variance 1 over the training clips, in as few columns as will do.

    Where there are more features than training clips, the columns are turned into the directions
    that those clips span. An L2 penalty does not see a rotation, and gives no weight to directions
    without data: predictions are the same, the fit is faster.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features[train].astype(np.float64))
    train_features, test_features = (scaler.transform(features[i].astype(np.float64)) for i in (train, test))
    if train_features.shape[1] <= len(train):
        return train_features, test_features
    _, _, directions = np.linalg.svd(train_features, full_matrices=False)  # (n_train, D)
    return train_features @ directions.T, test_features @ directions.T
