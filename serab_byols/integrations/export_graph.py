"""The model as one plain graph, waveform to embedding, for tracers that follow any batch and any length.

The model itself has no such graph: front end and runners cut their input into blocks, in Python loops over
sizes, which a tracer would freeze; and ``torch.fft`` is slow in other runtimes, where it exists. Here the
STFT is a convolution, and the encoder runs as a whole. What a tracer cannot keep general, the
LSTM of CLSTM and the reshapes in CvT's attention, is written out in other words with the same weights.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

from serab_byols.encoders import CLSTM, CvT, Encoder, unwrapped
from serab_byols.encoders.cvt import HEAD_CHANNELS, Attention, PreNorm
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import (
    FRONTENDS,
    HOP_SAMPLES,
    LOG_OFFSET,
    N_FFT,
    WINDOW_SAMPLES,
    hann_window,
    mel_filterbank,
)
from serab_byols.inference.runners.module_runner import is_unmodified
from serab_byols.model import ByolsModel
from serab_byols.normalization import STD_FLOOR, Statistics, shares_statistics

_REACH = WINDOW_SAMPLES // 2
"""Samples that a column sees on either side of its centre. The front end reflects 512 samples at either
end, but its window covers no more than these of them."""


class ExportGraph(nn.Module):
    """Waveform (B, n) to embedding (B, D), float32, in eval mode, on the CPU, without gradients.

    It has a copy of the model's weights and computes what ``get_scene_embeddings`` does: short clips get
    zeros appended, and an embedding depends on its clip alone.

    Args:
        model: with ``normalization`` ``"clip"`` or fixed statistics, or ``"auto"``.

    Raises:
        InvalidInputError: a rule that shares statistics between clips, or a front end of the caller's own.
    """

    def __init__(self, model: ByolsModel) -> None:
        super().__init__()
        rule = model.resolved_normalization
        if shares_statistics(rule):
            raise InvalidInputError(
                f"normalization {rule!r} shares statistics between clips, which an exported model does not: "
                'use "auto", "clip" or (mean, std)'
            )
        if type(model.frontend) not in FRONTENDS.values():
            raise InvalidInputError(
                f"only the front ends {', '.join(FRONTENDS)} can be exported, which are the same in a graph; "
                f"the model has {type(model.frontend).__name__}"
            )
        self.min_samples = model.min_samples
        self.statistics = rule if isinstance(rule, Statistics) else None
        self.frontend = ConvolutionFrontend()
        encoder = copy.deepcopy(unwrapped(model.encoder)).cpu().float()
        self.encoder = _traceable(encoder)
        self.eval().requires_grad_(False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        n_samples = waveform.shape[1]
        padded = F.pad(waveform, (0, torch.sym_max(n_samples, self.min_samples) - n_samples))
        return self.encoder(self._normalized(self.frontend(padded))[:, None])

    def _normalized(self, log_mel: torch.Tensor) -> torch.Tensor:
        if self.statistics is not None:
            return (log_mel - self.statistics.mean) / self.statistics.std
        # The mean is subtracted twice, since a runtime's sum of a long clip may be inexact. Silence would
        # show it: all of its values are equal, and the floor of the std enlarges what is left of them.
        centred = log_mel - log_mel.mean(dim=(1, 2), keepdim=True)
        centred = centred - centred.mean(dim=(1, 2), keepdim=True)
        n_values = log_mel.shape[1] * log_mel.shape[2]
        variance = centred.square().sum(dim=(1, 2), keepdim=True) / (n_values - 1)
        return centred / variance.sqrt().clamp_min(STD_FLOOR)


class ConvolutionFrontend(nn.Module):
    """Log-mel (B, 64, T) of a waveform (B, n), the STFT as a strided convolution."""

    basis: torch.Tensor
    mel_fb: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        filterbank = mel_filterbank()
        bins = np.flatnonzero(filterbank.any(axis=1))  # the others have no weight in any mel
        # Phases modulo the FFT's length are exact integers; cosines of large arguments would lose digits.
        phases = 2 * np.pi / N_FFT * (bins[:, None] * np.arange(WINDOW_SAMPLES) % N_FFT)
        basis = np.concatenate([np.cos(phases), np.sin(phases)]) * hann_window()
        filters = np.concatenate([filterbank[bins]] * 2).T  # one product adds re^2 and im^2 and weights them
        self.register_buffer("basis", torch.from_numpy(basis).float()[:, None])  # (2 * bins, 1, 400)
        self.register_buffer("mel_fb", torch.from_numpy(filters).float()[:, :, None])  # (64, 2 * bins, 1)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        before, after = waveform[:, 1 : _REACH + 1].flip(1), waveform[:, -_REACH - 1 : -1].flip(1)
        reflected = torch.cat([before, waveform, after], dim=1)
        parts = F.conv1d(reflected[:, None], self.basis, stride=HOP_SAMPLES)
        return torch.log(F.conv1d(parts.square(), self.mel_fb) + LOG_OFFSET)


def _traceable(encoder: Encoder) -> nn.Module:
    """A module that computes what the encoder's ``encode`` does; modified encoders run their own code."""
    if isinstance(encoder, CvT):
        encoder.window_columns = None  # windows depend on the length, which a tracer would freeze
    if type(encoder) is CvT and is_unmodified(encoder):
        for module in encoder.modules():
            if isinstance(module, PreNorm) and isinstance(module.fn, Attention):
                module.fn = _CvTAttention(module.fn)
    if type(encoder) is CLSTM and is_unmodified(encoder):
        return _CLSTMGraph(encoder)
    return _Encode(encoder)


class _Encode(nn.Module):
    """The encoder without the check of its input, which would freeze the length."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.module = encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module.encode(x)


class _CvTAttention(nn.Module):
    """CvT's attention with channels before positions throughout, so that nothing is transposed or split."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.to_q, self.to_out = attention.to_q, attention.to_out
        depthwise, norm, pointwise = attention.to_kv.net
        self.depthwise_kv = nn.Sequential(depthwise, norm)
        keys, values = cast(torch.Tensor, pointwise.weight).chunk(2)
        self.to_k, self.to_v = nn.Parameter(keys.clone()), nn.Parameter(values.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.depthwise_kv(x)  # at half the resolution
        q, k, v = (
            self._of_heads(p) for p in (self.to_q(x), F.conv2d(half, self.to_k), F.conv2d(half, self.to_v))
        )
        weights = torch.softmax(torch.bmm((q * HEAD_CHANNELS**-0.5).transpose(1, 2), k), dim=-1)
        attended = torch.bmm(v, weights.transpose(1, 2))  # (b * heads, 64, M * T)
        return self.to_out(attended.reshape(x.shape[0], -1, x.shape[2], x.shape[3]))

    def _of_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(b, heads * 64, M, T) to (b * heads, 64, M * T)."""
        return x.flatten(2).unflatten(1, (self.heads, HEAD_CHANNELS)).flatten(0, 1)


class _CLSTMGraph(nn.Module):
    """CLSTM with its LSTM as a loop over the steps, and the backward direction's only step.

    A tracer would unroll ``nn.LSTM`` for the length that it sees. The inputs' part of the gates is a
    convolution whose kernel covers all mels.
    """

    def __init__(self, encoder: CLSTM) -> None:
        super().__init__()
        self.conv, self.fc_final = encoder.conv, encoder.fc_final
        lstm: Any = encoder.bilstm
        channels = cast(nn.Conv2d, encoder.conv[4]).out_channels
        self.recurrent = lstm.weight_hh_l0
        self.forward_input = _input_gates(lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0, channels)
        self.backward_input = _input_gates(
            lstm.weight_ih_l0_reverse, lstm.bias_ih_l0_reverse + lstm.bias_hh_l0_reverse, channels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolved = self.conv(x)  # (b, C, M, T)
        gates = self.forward_input(convolved).squeeze(2)  # (b, 4 * hidden, T)
        n_steps = gates.shape[2]
        recurrent = self.recurrent

        def more(step: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
            return step < n_steps

        def advance(
            step: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            of_step = gates.index_select(2, step.reshape(1)).squeeze(2) + F.linear(hidden, recurrent)
            return (step + 1, *_cell(of_step, cell))

        zero = torch.zeros_like(gates[:, : recurrent.shape[1], 0])
        _, forward, _ = while_loop(more, advance, (torch.tensor(0), zero, zero.clone()))
        backward, _ = _cell(self.backward_input(convolved[..., -1:]).flatten(1), zero)
        return self.fc_final(torch.cat([forward, backward], dim=1))


def _input_gates(weight: torch.Tensor, bias: torch.Tensor, channels: int) -> nn.Conv2d:
    """The inputs' part of the gates (b, 4 * hidden, 1, T) of features (b, C, M, T), flattened mel-major."""
    kernel = weight.unflatten(1, (-1, channels)).transpose(1, 2)[..., None]  # (4 * hidden, C, M, 1)
    convolution = nn.Conv2d(channels, len(weight), tuple(kernel.shape[2:]))
    convolution.weight, convolution.bias = nn.Parameter(kernel.contiguous()), nn.Parameter(bias)
    return convolution


def _cell(gates: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden state and cell (b, hidden) after one step."""
    i, f, g, o = gates.split(cell.shape[1], dim=1)  # torch's order: input, forget, cell, output gate
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
