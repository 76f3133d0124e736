"""CvT: convolutional vision transformer (arXiv 2103.15808) on spectrograms, public name ``cvt``.

The configuration is that of Hybrid BYOL-S (arXiv 2203.16637): three stages of 64, 256 and 512
channels with one transformer layer each. Heads stay at 1, 3 and 6 of 64 channels, so the inner
width of the attention differs from the width of its stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from serab_byols.encoders.encoder import Encoder, flatten_mel_major, is_size
from serab_byols.encoders.layer_geometry import WHOLE_CLIP, Operation, layers_along
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import N_MELS

HEAD_CHANNELS = 64
KERNELS = (7, 3, 3)
STRIDES = (4, 2, 2)
POOLS = ("mean+max", "mean", "max")
NORM_EPS = 1e-5
TINY = 1e-30
WINDOW_COLUMNS = 60000
"""Ten minutes, a multiple of every stride. Attention is quadratic in the number of positions: over an hour it
would cost 36 times as much. So longer scenes go through in windows of equal length."""

_STRIDE = math.prod(STRIDES)
_STAGES = ("stage1", "stage2", "stage3")


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, M, T), at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        var, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        # The published weights were trained with eps outside the root. There the derivative of the
        # root at zero is infinite; the clamp makes it zero and is far too small to move a value.
        return (x - mean) / (var.clamp_min(TINY).sqrt() + NORM_EPS) * self.g + self.b


class SeparableProjection(nn.Module):
    """Depthwise 3x3 convolution, batch norm, pointwise convolution."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, out_channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Attention(nn.Module):
    """Multi-head attention whose keys and values are at half the resolution of the queries."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        inner = heads * HEAD_CHANNELS
        self.heads = heads
        self.to_q = SeparableProjection(channels, inner, stride=1)
        self.to_kv = SeparableProjection(channels, 2 * inner, stride=2)
        self.to_out = nn.Sequential(nn.Conv2d(inner, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n_mels = x.shape[2]
        keys, values = self.to_kv(x).chunk(2, dim=1)
        q, k, v = (
            rearrange(part, "b (h c) m t -> b h (m t) c", h=self.heads)
            for part in (self.to_q(x), keys, values)
        )
        attended = F.scaled_dot_product_attention(q, k, v)  # scale 1 / sqrt(64)
        return self.to_out(rearrange(attended, "b h (m t) c -> b (h c) m t", m=n_mels))


class FeedForward(nn.Module):
    """Pointwise expansion, exact GELU, pointwise contraction."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        # The identities keep the places of dropouts with probability 0, and with them the keys.
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels * ratio, 1),
            nn.GELU(),
            nn.Identity(),
            nn.Conv2d(channels * ratio, channels, 1),
            nn.Identity(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    """A residual branch: norm first, then ``fn``."""

    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fn(self.norm(x))


class Transformer(nn.Module):
    """``depth`` layers of attention and feed-forward."""

    def __init__(self, channels: int, heads: int, depth: int, ratio: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                PreNorm(channels, Attention(channels, heads)),
                PreNorm(channels, FeedForward(channels, ratio)),
            )
            for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class CvT(Encoder):
    """Three stages of convolutional patch embedding, channel norm and transformer.

    Args:
        channels: width of each stage.
        heads: attention heads of each stage, 64 channels each.
        depths: transformer layers of each stage.
        mlp_ratio: expansion of the feed-forward layers.
        pool: ``"mean+max"`` over time, mel bands kept apart (published; D = 4 * channels), or
            ``"mean"`` or ``"max"`` over mel and time (D = channels). The weights are the same.

    A scene of more than ten minutes is cut into as few windows as may be of at most ten minutes, all of one
    length but the last, which may be a little shorter. Attention sees one window; mean and maximum are
    those over the steps of all windows. It is an approximation of attention over the whole scene.

    Attributes:
        window_columns: log-mel columns from one window to the next, at most, a multiple of 16; the last
            window has one more, as every clip. None: scenes are never cut.
    """

    name = "cvt"
    min_columns = 1
    window_columns: int | None = WINDOW_COLUMNS
    feature_layers = {  # noqa: RUF012
        name: replace(layer, receptive=WHOLE_CLIP)  # attention sees everything
        for name, layer in layers_along(
            step
            for name, kernel, stride in zip(_STAGES, KERNELS, STRIDES)
            for step in (Operation(kernel, stride, kernel // 2), name)
        ).items()
    }

    def __init__(
        self,
        channels: Sequence[int] = (64, 256, 512),
        heads: Sequence[int] = (1, 3, 6),
        depths: Sequence[int] = (1, 1, 1),
        mlp_ratio: int = 4,
        pool: str = "mean+max",
    ) -> None:
        if not len(channels) == len(heads) == len(depths) == len(STRIDES):
            raise InvalidInputError(
                f"cvt has {len(STRIDES)} stages: channels, heads and depths need as many numbers, "
                f"got {channels}, {heads} and {depths}"
            )
        if not all(map(is_size, (*channels, *heads, *depths, mlp_ratio))):
            raise InvalidInputError(
                "channels, heads, depths and mlp_ratio of cvt are whole numbers from 1, "
                f"got {channels}, {heads}, {depths} and {mlp_ratio}"
            )
        channels, heads, depths = ([int(size) for size in sizes] for sizes in (channels, heads, depths))
        if pool not in POOLS:
            raise InvalidInputError(f"unknown pool {pool!r}; choose from {', '.join(POOLS)}")
        mels_left = N_MELS // 16
        super().__init__(
            embedding_size=channels[-1] * (mels_left if pool == "mean+max" else 1),
            config={
                "channels": channels,
                "heads": heads,
                "depths": depths,
                "mlp_ratio": int(mlp_ratio),
                "pool": pool,
            },
        )
        self.pool = pool
        stages = []
        in_channels = 1
        for stage, (width, n_heads, depth) in enumerate(zip(channels, heads, depths)):
            kernel = KERNELS[stage]
            stages.append(
                nn.Sequential(
                    nn.Conv2d(in_channels, width, kernel, STRIDES[stage], padding=kernel // 2),
                    ChannelNorm(width),
                    Transformer(width, n_heads, depth, int(mlp_ratio)),
                )
            )
            in_channels = width
        self.layers = nn.Sequential(*stages)

    @classmethod
    def config_from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
        stages = range(len(STRIDES))
        attention = "layers.{}.2.layers.{}.0.fn.to_q.net.2.weight"
        if any(attention.format(stage, 0) not in state for stage in stages):
            return None
        channels = [int(state[f"layers.{stage}.0.weight"].shape[0]) for stage in stages]
        inner = [int(state[attention.format(stage, 0)].shape[0]) for stage in stages]
        expansion = state["layers.0.2.layers.0.1.fn.net.0.weight"].shape
        return {
            "channels": channels,
            "heads": [width // HEAD_CHANNELS for width in inner],
            "depths": [_depth(state, stage) for stage in stages],
            "mlp_ratio": int(expansion[0] // expansion[1]),
        }

    def global_layers(
        self, x: torch.Tensor, steps: torch.Tensor | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        windows: Sequence[torch.Tensor] = self.windows(x)
        for name, stage in zip(_STAGES, self.layers):
            windows = [stage(window) for window in windows]
            yield name, torch.cat(windows, dim=3) if len(windows) > 1 else windows[0]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pooled(map(self.layers, self.windows(x)))  # (B, C, 4, T / 16) each

    def windows(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """A log-mel (..., T) in the windows that attention sees, in order."""
        limit, n_hops = self.window_columns, x.shape[-1] - 1
        if limit is None or n_hops <= limit:
            return (x,)
        n_windows = math.ceil(n_hops / limit)
        size = math.ceil(n_hops / n_windows / _STRIDE) * _STRIDE
        return x.tensor_split([size * k for k in range(1, n_windows)], dim=-1)

    def pooled(self, windows: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features of the last stage (B, C, M, T_i), of one window or more, to (B, D)."""
        mean = peak = None
        n_steps = 0
        for x in windows:
            rows, dims = (flatten_mel_major(x), (1,)) if self.pool == "mean+max" else (x, (2, 3))
            n_steps += x.shape[3]
            own_mean, own_peak = rows.mean(dim=dims), rows.amax(dim=dims)
            mean = own_mean if mean is None else mean + x.shape[3] / n_steps * (own_mean - mean)
            peak = own_peak if peak is None else torch.maximum(peak, own_peak)
        assert mean is not None
        assert peak is not None
        return {"mean": mean, "max": peak}.get(self.pool, mean + peak)


def _depth(state: Mapping[str, torch.Tensor], stage: int) -> int:
    """Number of transformer layers of a stage."""
    prefix = f"layers.{stage}.2.layers."
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
