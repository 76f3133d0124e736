"""Confidence intervals of accuracy and unweighted average recall."""

from __future__ import annotations

import numpy as np

from serab_byols.probe.results import Interval

N_RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap_intervals(
    truth: np.ndarray,
    predicted: np.ndarray,
    clusters: np.ndarray,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> tuple[Interval, Interval] | None:
    """Percentile bootstrap over clusters (Efron and Tibshirani, 1993).

    Whole clusters are drawn with replacement, as many as there are. Clips of one speaker fail
    together, so that resampling single clips would give too narrow an interval.

    Args:
        truth, predicted: labels as integers from 0, int64 (N,).
        clusters: the cluster of each clip, int64 (N,).
        seed, n_resamples: of the resampling.

    Returns:
        The 95 % intervals of accuracy and of unweighted average recall; None for a single cluster,
        which cannot be resampled.
    """
    distinct, cluster = np.unique(clusters, return_inverse=True)
    n_clusters = len(distinct)
    if n_clusters < 2:
        return None
    n_clips = np.zeros((n_clusters, int(truth.max()) + 1))
    np.add.at(n_clips, (cluster, truth), 1.0)
    n_correct = np.zeros_like(n_clips)
    np.add.at(n_correct, (cluster, truth), truth == predicted)

    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    clips, correct = times_drawn @ n_clips, times_drawn @ n_correct  # (n_resamples, n_labels)
    recalls = np.divide(correct, clips, out=np.full_like(clips, np.nan), where=clips > 0)
    return _interval(correct.sum(axis=1) / clips.sum(axis=1)), _interval(np.nanmean(recalls, axis=1))


def _interval(scores: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, (tail, 1 - tail))
    return Interval(float(low), float(high))
