"""Bicubic resizing of a different part of every spectrogram of a batch at once.

Resizing is linear and separable, so it is a product with two small matrices, which may differ from
clip to clip; ``interpolate`` takes one size for all.
"""

from __future__ import annotations

import torch

_A = -0.75
"""The constant of Keys's cubic convolution (1981) that image libraries, and torch, use."""


def bicubic_matrix(starts: torch.Tensor, lengths: torch.Tensor, n_in: int, n_out: int) -> torch.Tensor:
    """Matrices (B, n_out, n_in) that resize ``lengths`` points from ``starts`` on to ``n_out`` points.

    Corners are aligned: the first and the last point keep their values. Beyond the ends of the part,
    its end points are repeated.

    Args:
        starts: int64 (B,), first point of the part.
        lengths: int64 (B,), at least 1 and at most ``n_in`` less the start.
        n_in: points of the input.
        n_out: points of the output, at least 2.
    """
    # One rounding only, of a quotient of integers, so that the last point falls on the last point.
    position = torch.arange(n_out, device=starts.device) * (lengths - 1)[:, None] / (n_out - 1)
    before = position.floor()
    t = position - before
    taps = (_outer(t + 1), _inner(t), _inner(1 - t), _outer(2 - t))
    matrix = torch.zeros(len(starts), n_out, n_in, device=starts.device)
    for offset, weight in enumerate(taps, start=-1):
        index = (before.long() + offset).clamp_min(0).minimum((lengths - 1)[:, None]) + starts[:, None]
        matrix.scatter_add_(2, index[..., None], weight[..., None])
    return matrix


def _inner(x: torch.Tensor) -> torch.Tensor:
    return ((_A + 2) * x - (_A + 3)) * x * x + 1


def _outer(x: torch.Tensor) -> torch.Tensor:
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
