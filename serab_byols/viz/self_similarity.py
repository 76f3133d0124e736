"""Self-similarity of a sequence of embeddings, and its novelty curve (Foote, ICME 2000)."""

from __future__ import annotations

import numpy as np


def self_similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosine similarities (T, T) of unit vectors (T, D)."""
    return vectors @ vectors.T


def novelty_curve(vectors: np.ndarray, half_width: int) -> np.ndarray:
    """How much more alike the frames on either side of a point in time are than the two sides.

    It is the correlation of the self-similarity matrix with Foote's checkerboard kernel, tapered by a
    Gaussian, along the diagonal, written as a difference of two weighted means: of the similarities within
    both sides, and of those across. So it is comparable at the ends of a clip, where a side is cut off. Only
    the diagonals that the kernel covers are computed.

    Args:
        vectors: of length one, (T, D).
        half_width: frames on each side, at least 1.

    Returns:
        float64 (T,): at ``t`` the sides are the ``half_width`` frames before ``t``, and those from ``t`` on.
        NaN at 0, which has nothing before it.
    """
    n_frames = len(vectors)
    position = np.arange(-half_width, half_width) + 0.5
    taper = np.exp(-0.5 * (2.0 * position / half_width) ** 2)
    is_before = position < 0
    sums = {True: np.zeros((2, n_frames)), False: np.zeros((2, n_frames))}  # similarities and weights
    for lag in range(min(2 * half_width, n_frames)):
        similarity = np.einsum("td,td->t", vectors[: n_frames - lag], vectors[lag:], dtype=np.float64)
        weight = taper[: len(taper) - lag] * taper[lag:] * (1 if lag == 0 else 2)
        is_within = is_before[: len(taper) - lag] == is_before[lag:]
        for within, total in sums.items():
            kernel = np.where(is_within == within, weight, 0.0)
            total[0] += _along_diagonal(similarity, kernel, half_width, n_frames)
            total[1] += _along_diagonal(np.ones_like(similarity), kernel, half_width, n_frames)
    with np.errstate(invalid="ignore"):
        return sums[True][0] / sums[True][1] - sums[False][0] / sums[False][1]


def _along_diagonal(values: np.ndarray, kernel: np.ndarray, half_width: int, n_frames: int) -> np.ndarray:
    """Sums over i of ``kernel[i] * values[t - half_width + i]`` for every t; outside, values are zero."""
    padded = np.zeros(n_frames + len(kernel) - 1 + half_width)
    padded[half_width : half_width + len(values)] = values
    return np.correlate(padded, kernel)[:n_frames]
