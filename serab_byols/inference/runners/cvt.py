"""CvT for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from serab_byols.encoders import CvT
from serab_byols.encoders.cvt import (
    HEAD_CHANNELS,
    NORM_EPS,
    TINY,
    Attention,
    ChannelNorm,
    FeedForward,
)
from serab_byols.inference.runners.prepared_weights import channels_last_weight, fold_batch_norm
from serab_byols.inference.runners.runner import Runner, as_image


class CvTRunner(Runner):
    """Everything in (batch, mel, time, channel) order, where norms and pointwise layers act on rows.

    The batch norm between the depthwise and the pointwise convolution is folded into the former.
    """

    def __init__(self, encoder: CvT) -> None:
        self._stages = [_Stage(stage) for stage in encoder.layers]
        self._windows, self._pooled = encoder.windows, encoder.pooled
        self._dtype = next(encoder.parameters()).dtype

    def run(self, log_mel: torch.Tensor) -> torch.Tensor:
        return self._pooled(map(self._last_stage, self._windows(log_mel)))

    def _last_stage(self, log_mel: torch.Tensor) -> torch.Tensor:
        """(b, C, 4, T / 16) of (b, 64, T)."""
        x = as_image(log_mel, self._dtype)
        for stage in self._stages:
            x = stage(x)
        return x


class _Stage:
    """Patch embedding, norm, transformer."""

    def __init__(self, stage: Any) -> None:
        embedding, norm, transformer = stage
        self.stride, self.padding = embedding.stride, embedding.padding
        self.weight, self.bias = channels_last_weight(embedding)
        self.norm = _Norm(norm)
        self.layers = [
            (_Norm(attend.norm), _Attention(attend.fn), _Norm(feed.norm), _FeedForward(feed.fn))
            for attend, feed in transformer.layers
        ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        rows = self.norm(x.permute(0, 2, 3, 1).contiguous())  # (b, M, T, C)
        for attention_norm, attention, feed_norm, feed_forward in self.layers:
            rows = attention(attention_norm(rows)).add_(rows)
            rows = feed_forward(feed_norm(rows)).add_(rows)
        return rows.permute(0, 3, 1, 2)  # (b, C, M, T), channels-last in memory


class _Norm:
    """Channel norm on rows; eps is added to the standard deviation, as in the module.

    Torch's layer norm takes one pass where the formula takes five, and divides by the standard deviation s
    (its own eps is negligible). Multiplying by s / (s + eps) then gives the published formula.
    """

    def __init__(self, norm: ChannelNorm) -> None:
        self.gain, self.shift = norm.g.detach().flatten(), norm.b.detach().flatten()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        normed, _, inverse_std = torch.native_layer_norm(rows, rows.shape[-1:], None, None, TINY)
        return torch.addcmul(self.shift, normed.mul_(1 / (1 + NORM_EPS * inverse_std)), self.gain)


class _Projection:
    """Depthwise convolution with its batch norm folded in, then a pointwise layer on rows."""

    def __init__(self, net: Any) -> None:
        depthwise, norm, pointwise = net
        self.stride, self.groups = depthwise.stride, depthwise.groups
        self.weight, self.bias = fold_batch_norm(depthwise, norm)
        self.pointwise = pointwise.weight.detach().flatten(1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, M, T) channels-last to rows (b, M', T', out)."""
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding=1, groups=self.groups)
        return F.linear(x.permute(0, 2, 3, 1), self.pointwise)


class _Attention:
    def __init__(self, attention: Attention) -> None:
        self.q, self.kv = _Projection(attention.to_q.net), _Projection(attention.to_kv.net)
        out: Any = attention.to_out[0]
        self.out_weight, self.out_bias = out.weight.detach().flatten(1), out.bias.detach()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        x = rows.permute(0, 3, 1, 2)
        keys, values = self.kv(x).chunk(2, dim=-1)
        q, k, v = (_heads(part) for part in (self.q(x), keys, values))
        attended = F.scaled_dot_product_attention(q, k, v)  # (b, heads, M * T, 64)
        merged = attended.transpose(1, 2).flatten(2).unflatten(1, rows.shape[1:3])
        return F.linear(merged, self.out_weight, self.out_bias)


def _heads(rows: torch.Tensor) -> torch.Tensor:
    """(b, M, T, heads * 64) to (b, heads, M * T, 64)."""
    return rows.flatten(1, 2).unflatten(-1, (-1, HEAD_CHANNELS)).transpose(1, 2)


class _FeedForward:
    def __init__(self, feed_forward: FeedForward) -> None:
        net: Any = feed_forward.net
        expand, contract = net[0], net[3]
        self.layers = [
            (layer.weight.detach().flatten(1), layer.bias.detach()) for layer in (expand, contract)
        ]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        (expand, expand_bias), (contract, contract_bias) = self.layers
        return F.linear(F.gelu(F.linear(rows, expand, expand_bias)), contract, contract_bias)
