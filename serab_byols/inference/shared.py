"""AudioNTT on overlapping frames, each feature that frames share computed once.

At the default hop a frame begins 5 log-mel columns after the one before, and all but its edges see the
same 101 columns shifted. Three poolings by two make a feature depend on where its frame begins modulo 2, 4
and 8 columns, so shared features are computed at every column, by convolutions dilated by 1, 2 and 4
(as in the a-trous algorithm), and a frame picks those at its own columns. Only the features that the
padding at a frame's edges can reach, two at the left and one or two at the right of every level, are
computed frame by frame, from shared neighbours.

Time comes before mel here, (batch, channel, time, mel), channels innermost in memory, so that a
column is one piece of memory to pick.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from serab_byols.frames import FIRST_INNER, FrameBatch
from serab_byols.frontend import HOP_SAMPLES

N_LEFT = FIRST_INNER
"""Features at a frame's left edge that are its own, the same number at every level: if columns 0 and 1
are, then so are the features 0 and 1 that see them."""

_WORTH_IT = 0.5


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


def is_worth_sharing(frames: FrameBatch) -> bool:
    """Whether frames lie on one grid of columns, and close enough that sharing saves work."""
    if not frames.can_share or len(frames) < 2:
        return False
    offsets = frames.starts - frames.starts[0]
    n_columns = int(offsets[-1]) // HOP_SAMPLES + frames.n_columns
    last = frames.last_inner
    for _ in range(3):
        last = (last - 2) // 2
    return (
        bool((offsets % HOP_SAMPLES == 0).all())
        and last >= N_LEFT
        and n_columns <= _WORTH_IT * len(frames) * frames.n_columns
    )


def shared_steps(
    frames: FrameBatch, convolutions: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Steps of every frame after the convolutions.

    Returns:
        Shared steps (U, 512), which of them every frame has (k, s), and the frame's own (k, e, 512).
    """
    columns = (frames.starts - frames.starts[0]) // HOP_SAMPLES
    level = _log_mel_level(frames, columns, convolutions[0][0].dtype)
    for weight, bias in convolutions:
        level = _next_level(level, columns, weight.transpose(2, 3), bias)
    steps = torch.arange(N_LEFT, level.last_shared + 1, device=columns.device)
    used, which = torch.unique(columns[:, None] + level.stride * steps, return_inverse=True)
    own = torch.cat([level.left, level.right], dim=1).flatten(2)
    return level.shared[used].flatten(1), which, own  # mel slow, channel fast, as the weights expect


def _log_mel_level(frames: FrameBatch, columns: torch.Tensor, dtype: torch.dtype) -> _Level:
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
    n_features, last_shared = level.n_features // 2, (level.last_shared - 2) // 2
    device = columns.device

    # Feature 2 * N_LEFT is the last that the left edge's own outputs see.
    inner = torch.arange(N_LEFT, 2 * N_LEFT + 1, device=device)
    left = torch.cat([level.left, level.pick(columns, inner)], dim=1)
    left = _convolved(left, weight, bias)[:, : 2 * N_LEFT]

    # The slice begins one feature before the first output that is wanted, which thus has its neighbour.
    first = 2 * last_shared + 1
    inner = torch.arange(first, level.last_shared + 1, device=device)
    right = torch.cat([level.pick(columns, inner), level.right], dim=1)
    right = _convolved(right, weight, bias)[:, 1 : 1 + 2 * (n_features - 1 - last_shared)]

    shared = _convolved(level.shared[None], weight, bias, dilation=level.stride)
    shared = torch.maximum(shared[:, : -level.stride], shared[:, level.stride :])
    return _Level(
        shared=_mel_pooled(shared)[0],
        left=_mel_pooled(torch.maximum(left[:, 0::2], left[:, 1::2])),
        right=_mel_pooled(torch.maximum(right[:, 0::2], right[:, 1::2])),
        n_features=n_features,
        last_shared=last_shared,
        stride=2 * level.stride,
    )


def _convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """3x3 convolution of (b, T, M, C), dilated in time, zero-padded."""
    image = x.permute(0, 3, 1, 2)
    y = F.conv2d(image, weight, bias, padding=(dilation, 1), dilation=(dilation, 1))
    return y.permute(0, 2, 3, 1)


def _mel_pooled(x: torch.Tensor) -> torch.Tensor:
    """(b, T, M, C) to (b, T, M // 2, C), and ReLU."""
    n_mels = x.shape[2] // 2 * 2
    return torch.maximum(x[:, :, 0:n_mels:2], x[:, :, 1:n_mels:2]).relu_()
