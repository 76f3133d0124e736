"""Accuracy, unweighted average recall, and intervals around them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

N_RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Ends of a 95 % confidence interval."""

    low: float
    high: float


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_labels: int) -> np.ndarray:
    """Counts, int64 (n_labels, n_labels): rows are true labels, columns are predicted ones."""
    cells = np.bincount(truth * n_labels + predicted, minlength=n_labels * n_labels)
    return cells.reshape(n_labels, n_labels)


def accuracy(confusion: np.ndarray) -> float:
    """Share of clips that are told right."""
    return float(np.trace(confusion) / confusion.sum())


def unweighted_average_recall(confusion: np.ndarray) -> float:
    """Mean over labels of the share of their clips that are told right, whatever their numbers.

    Labels without a clip are left out. Schuller, Steidl and Batliner, *The INTERSPEECH 2009 Emotion
    Challenge*; the same as balanced accuracy.
    """
    clips = confusion.sum(axis=1)
    return float(np.mean(np.diag(confusion)[clips > 0] / clips[clips > 0]))


def bootstrap_intervals(
    truth: np.ndarray,
    predicted: np.ndarray,
    clusters: np.ndarray,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> tuple[Interval, Interval] | None:
    """Intervals by the percentile bootstrap over clusters (Efron and Tibshirani, 1993).

    Whole clusters are drawn with replacement, as many as there are, and the scores taken of their
    clips: clips of one speaker fail together, so that single ones would give too narrow an interval.

    Args:
        truth, predicted: labels as numbers from 0, int64 (N,).
        clusters: which cluster a clip is in, int64 (N,).
        seed, n_resamples: of the drawing.

    Returns:
        The 95 % intervals of accuracy and of unweighted average recall; None for a single cluster,
        of which nothing can be resampled.
    """
    cluster_names, cluster = np.unique(clusters, return_inverse=True)
    n_clusters = len(cluster_names)
    if n_clusters < 2:
        return None
    n_labels = int(truth.max()) + 1
    totals = np.zeros((n_clusters, n_labels))
    np.add.at(totals, (cluster, truth), 1.0)
    hits = np.zeros((n_clusters, n_labels))
    right = truth == predicted
    np.add.at(hits, (cluster[right], truth[right]), 1.0)

    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    clips, told_right = times_drawn @ totals, times_drawn @ hits  # (n_resamples, n_labels)
    recalls = np.divide(told_right, clips, out=np.full_like(clips, np.nan), where=clips > 0)
    return (
        _interval(told_right.sum(axis=1) / clips.sum(axis=1)),
        _interval(np.nanmean(recalls, axis=1)),
    )


def _interval(scores: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, (tail, 1 - tail))
    return Interval(float(low), float(high))
