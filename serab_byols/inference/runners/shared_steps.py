"""Convolutions and poolings of overlapping frames, each feature that frames share computed once.

For encoders that begin with stages of one convolution, padded by one on either side, and one pooling by
two: AudioNTT and CLSTM. At the default hop a frame begins 5 log-mel columns after the one before, and all
but its edges see the same 101 columns shifted.

Why the features are the same. Let ``X`` be the log-mel columns of the waveform and let a frame begin at
column ``p``, so that its inner columns are ``X[p + c]``. Pooling starts at the frame's beginning, so after
``l`` stages its feature ``n`` covers columns from ``p + 2^l n`` on, and two frames pool on different grids
unless their beginnings agree modulo ``2^l``. So the stages are computed without decimation, at every column:

    Y_0[q] = X[q]
    Z_l[q] = bias + sum_k weight[k] Y_{l-1}[q + 2^(l-1) (k - 1)]      a convolution dilated by 2^(l-1)
    Y_l[q] = relu(max(Z_l[q], Z_l[q + 2^(l-1)]))                      a pooling without stride

By induction, feature ``n`` of the frame after stage ``l`` is ``Y_l[p + 2^l n]``: substitute
``q = p + 2^l n`` and the two lines are the frame's own convolution and pooling (the "a trous" algorithm of
wavelet transforms). This holds wherever the receptive field stays clear of the frame's zero padding and of
its edge columns. If features 0 and 1 are a frame's own at one level, the next level's own ones at the left
are those that see them, again 0 and 1; at the right there are one or two. Only these are computed frame by
frame, from shared neighbours.

Time comes before mel here, (batch, channel, time, mel), channels innermost in memory, so that a column is
contiguous and cheap to gather.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from serab_byols.frontend import HOP_SAMPLES
from serab_byols.inference.overlapping_frames import FIRST_INNER, OverlappingFrames
from serab_byols.inference.runners.runner import one_channel_convolution

N_LEFT = FIRST_INNER
"""Features at a frame's left edge that depend on its padding, the same number at every level."""

_MAX_SHARED_RATIO = 0.5
"""Sharing must at least halve the number of columns that are convolved."""
_WIDE = 9
"""A convolution of one channel with more weights than this is faster as a matrix product."""

_COLUMNS_AT_ONCE = 2000
"""Frames that begin within so many columns share; the first level of CLSTM has 60 kB per column."""

_MAX_GRIDS = 4
"""Frames on more grids of log-mel columns than this share too little."""


Convolutions = Sequence[tuple[torch.Tensor, torch.Tensor]]
RunFrames = Callable[[OverlappingFrames], torch.Tensor]


@dataclass(frozen=True)
class _Level:
    """Features after some poolings by two.

    Attributes:
        shared: at every column (N, M, C).
        left, right: of every frame's edges (k, c, M, C).
        n_features: along a frame.
        last_shared: the last feature of a frame that is shared.
        stride: columns from one feature of a frame to the next.
    """

    shared: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    n_features: int
    last_shared: int
    stride: int

    def pick(self, columns: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Shared features (k, f, M, C) of frames that begin at ``columns`` (k,)."""
        return self.shared[columns[:, None] + self.stride * features]


def embed_in_groups(
    frames: OverlappingFrames, convolutions: Convolutions, shared: RunFrames, separately: RunFrames
) -> torch.Tensor:
    """Embeddings (k, D) of frames: groups that share enough by ``shared``, the others by ``separately``.

    A hop of 25 ms is 2.5 columns, so that every other frame lies on the same grid of columns.

    Args:
        frames: in order.
        convolutions: weights (out, in, mel, time) and biases, those of :func:`shared_steps`.
        shared: for frames on one grid of columns.
        separately: for any frames.
    """
    grids = frames.starts % HOP_SAMPLES
    if not frames.can_share or len(grids.unique()) > _MAX_GRIDS:
        return separately(frames)
    regions = (frames.starts - frames.starts[0]) // (_COLUMNS_AT_ONCE * HOP_SAMPLES)
    groups = [
        ((grids == grid) & (regions == region)).nonzero()[:, 0]
        for region in regions.unique()
        for grid in grids[regions == region].unique()
    ]
    parts = [frames[group] for group in groups]
    kernels = [weight.shape[3] for weight, _ in convolutions]
    embeddings = [(shared if _is_worth_sharing(part, kernels) else separately)(part) for part in parts]
    return torch.cat(embeddings)[torch.cat(groups).argsort()]


def _is_worth_sharing(frames: OverlappingFrames, kernels: Sequence[int]) -> bool:
    """Whether frames on one grid of columns overlap so much that sharing saves work."""
    n_columns = int(frames.starts[-1] - frames.starts[0]) // HOP_SAMPLES + frames.n_columns
    last = frames.last_inner
    for kernel in kernels:
        last = _last_shared(last, kernel)
    return last >= N_LEFT and n_columns <= _MAX_SHARED_RATIO * len(frames) * frames.n_columns


def _last_shared(last: int, kernel: int) -> int:
    """After a convolution, whose outputs see ``kernel - 2`` features to their right, and a pooling by two."""
    return (last - (kernel - 2) - 1) // 2


def shared_steps(
    frames: OverlappingFrames, convolutions: Convolutions
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Steps of every frame after the convolutions.

    Returns:
        Shared steps (U, C), which of them every frame has (k, s), and the frame's own (k, e, C): the
        first ``N_LEFT`` come before the shared ones, the others after them.
    """
    columns = (frames.starts - frames.starts[0]) // HOP_SAMPLES
    level = _log_mel_level(frames, columns, convolutions[0][0].dtype)
    for weight, bias in convolutions:
        level = _next_level(level, columns, weight.transpose(2, 3), bias)
    steps = torch.arange(N_LEFT, level.last_shared + 1, device=columns.device)
    used, which = torch.unique(columns[:, None] + level.stride * steps, return_inverse=True)
    own = torch.cat([level.left, level.right], dim=1).flatten(2)
    return level.shared[used].flatten(1), which, own  # mel slow, channel fast, as the weights expect


def _log_mel_level(frames: OverlappingFrames, columns: torch.Tensor, dtype: torch.dtype) -> _Level:
    n_columns = int(columns[-1]) + frames.last_inner + 1
    inner = torch.arange(FIRST_INNER, n_columns, device=columns.device)
    shared = frames.columns_at(frames.starts[0] + inner * HOP_SAMPLES).to(dtype)
    left, right = frames.edge_columns()
    return _Level(
        shared=F.pad(shared, (0, 0, FIRST_INNER, 0))[..., None],  # so that an index is a column
        left=left.to(dtype)[..., None],
        right=right.to(dtype)[..., None],
        n_features=frames.n_columns,
        last_shared=frames.last_inner,
        stride=1,
    )


def _next_level(level: _Level, columns: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> _Level:
    """Convolution, pooling by two in time and mel, ReLU."""
    kernel = weight.shape[2]
    n_features = (level.n_features + 3 - kernel) // 2
    last_shared = _last_shared(level.last_shared, kernel)
    device = columns.device

    # The receptive field of the outputs at the left edge, two of which are pooled into one.
    inner = torch.arange(N_LEFT, 2 * N_LEFT + kernel - 2, device=device)
    left = torch.cat([level.left, level.pick(columns, inner)], dim=1)
    left = _convolve(left, weight, bias)[:, : 2 * N_LEFT]

    # Begin one feature before the first output that is needed, so that it has its left neighbour.
    first = 2 * last_shared + 1
    inner = torch.arange(first, level.last_shared + 1, device=device)
    right = torch.cat([level.pick(columns, inner), level.right], dim=1)
    right = _convolve(right, weight, bias)[:, 1 : 1 + 2 * (n_features - 1 - last_shared)]

    shared = _convolve(level.shared[None], weight, bias, dilation=level.stride)
    shared = torch.maximum(shared[:, : -level.stride], shared[:, level.stride :])
    return _Level(
        shared=_pool_mel(shared)[0],
        left=_pool_mel(torch.maximum(left[:, 0::2], left[:, 1::2])),
        right=_pool_mel(torch.maximum(right[:, 0::2], right[:, 1::2])),
        n_features=n_features,
        last_shared=last_shared,
        stride=2 * level.stride,
    )


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """Convolution of (b, T, M, C), dilated in time, zero-padded by one feature."""
    if weight[0].numel() > _WIDE and weight.shape[1] == 1 and dilation == 1:
        return one_channel_convolution(x[..., 0], weight, bias)
    image = x.permute(0, 3, 1, 2)
    y = F.conv2d(image, weight, bias, padding=(dilation, 1), dilation=(dilation, 1))
    return y.permute(0, 2, 3, 1)


def _pool_mel(x: torch.Tensor) -> torch.Tensor:
    """(b, T, M, C) to (b, T, M // 2, C), and ReLU."""
    n_mels = x.shape[2] // 2 * 2
    return torch.maximum(x[:, :, 0:n_mels:2], x[:, :, 1:n_mels:2]).relu_()
