"""Confidence intervals of accuracy and unweighted average recall, and of their differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serab_byols.probe.manifest import encoded
from serab_byols.probe.results import Interval

N_RESAMPLES = 2000
CONFIDENCE = 0.95


def clusters_of(groups: Sequence[str | None]) -> np.ndarray:
    """What is resampled together, int64 (N,): clips of a group; without groups each clip for itself."""
    if None in groups:
        return np.arange(len(groups))
    return encoded([group for group in groups if group is not None])


def bootstrap_intervals(
    truth: np.ndarray,
    predicted: np.ndarray,
    clusters: np.ndarray,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    other: np.ndarray | None = None,
) -> tuple[Interval, Interval] | None:
    """Percentile bootstrap over clusters (Efron and Tibshirani, 1993).

    Whole clusters are drawn with replacement, as many as there are. Clips of one speaker fail
    together, so that resampling single clips would give too narrow an interval.

    Args:
        truth, predicted: labels as integers from 0, int64 (N,).
        clusters: the cluster of each clip, int64 (N,).
        seed, n_resamples: of the resampling.
        other: other predictions for the same clips, int64 (N,). The intervals are then of the differences,
            ``predicted`` minus ``other``: both scored on the same clips in each resample (paired).

    Returns:
        The 95 % intervals of accuracy and of unweighted average recall; None for a single cluster,
        which cannot be resampled.
    """
    n_clusters = len(np.unique(clusters))
    if n_clusters < 2:
        return None
    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    accuracy, recall = _scores(truth, predicted, clusters, times_drawn)
    if other is not None:
        others = _scores(truth, other, clusters, times_drawn)
        accuracy, recall = accuracy - others[0], recall - others[1]
    return _interval(accuracy), _interval(recall)


def _scores(
    truth: np.ndarray, predicted: np.ndarray, clusters: np.ndarray, times_drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and recall (n_resamples,) of clusters drawn so often (n_resamples, n_clusters)."""
    cluster = np.unique(clusters, return_inverse=True)[1]
    n_clips = np.zeros((times_drawn.shape[1], int(truth.max()) + 1))
    np.add.at(n_clips, (cluster, truth), 1.0)
    n_correct = np.zeros_like(n_clips)
    np.add.at(n_correct, (cluster, truth), truth == predicted)
    clips, correct = times_drawn @ n_clips, times_drawn @ n_correct  # (n_resamples, n_labels)
    recalls = np.divide(correct, clips, out=np.full_like(clips, np.nan), where=clips > 0)
    return correct.sum(axis=1) / clips.sum(axis=1), np.nanmean(recalls, axis=1)


def _interval(scores: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, (tail, 1 - tail))
    return Interval(float(low), float(high))
