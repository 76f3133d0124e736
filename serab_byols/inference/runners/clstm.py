"""CLSTM for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from serab_byols.encoders import CLSTM
from serab_byols.inference.overlapping_frames import OverlappingFrames
from serab_byols.inference.runners.prepared_weights import fold_batch_norm
from serab_byols.inference.runners.runner import (
    ConvolutionRunner,
    max_pool_2x2,
    mel_major,
    one_channel_convolution,
)
from serab_byols.inference.runners.shared_steps import N_LEFT, embed_in_groups, shared_steps

CONVOLVED_COLUMNS = 400
"""Log-mel columns per convolution call; the first has 6 MB of output for every hundred."""


class CLSTMRunner(ConvolutionRunner):
    """Folded convolutions; the forward LSTM in chunks that pass on its state; one backward step.

    Only the last time step is used, where the backward direction has processed a single step.
    """

    stride = 4
    chunk_columns = 400
    halo_before = 4
    halo_after = 12  # the first convolution has kernel 9 and padding 1: it looks ahead

    def __init__(self, encoder: CLSTM) -> None:
        conv: Any = encoder.conv  # as built: convolutions at 0 and 4, norms at 1 and 5
        self._convolutions = [fold_batch_norm(conv[0], conv[1]), fold_batch_norm(conv[4], conv[5])]
        lstm: Any = encoder.bilstm
        forward = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
        self._forward = [parameter.detach() for parameter in forward]
        self._backward_weight = lstm.weight_ih_l0_reverse.detach()
        self._backward_bias = lstm.bias_ih_l0_reverse + lstm.bias_hh_l0_reverse
        self._hidden = lstm.hidden_size
        final: Any = encoder.fc_final[0]
        self._final = final.weight.detach(), final.bias.detach()

    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        size = max(1, CONVOLVED_COLUMNS // log_mel.shape[2])
        return torch.cat([self._convolve(part) for part in log_mel.split(size)])  # (b, t, 3584)

    def _convolve(self, log_mel: torch.Tensor) -> torch.Tensor:
        first, second = self._convolutions
        x = max_pool_2x2(one_channel_convolution(log_mel, *first).permute(0, 3, 1, 2)).relu_()
        return mel_major(max_pool_2x2(F.conv2d(x, *second, padding=1)).relu_())

    def run(self, log_mel: torch.Tensor) -> torch.Tensor:
        hidden = self._backward_weight.new_zeros(1, len(log_mel), self._hidden)
        cell = hidden
        last = hidden
        for steps in self.steps(log_mel):
            _, hidden, cell = torch.lstm(
                steps.contiguous(), (hidden, cell), self._forward, True, 1, 0.0, False, False, True
            )
            last = steps[:, -1]
        return self._output(hidden[0], last)

    def embed_frames(self, frames: OverlappingFrames) -> torch.Tensor:
        return embed_in_groups(frames, self._convolutions, self._shared, super().embed_frames)

    def _shared(self, frames: OverlappingFrames) -> torch.Tensor:
        """The inputs' part of the LSTM's gates is shared, too; only the recurrence runs frame by frame."""
        shared, which, own = shared_steps(frames, self._convolutions)
        weight, recurrent, bias, other_bias = self._forward
        input_gates = [F.linear(steps, weight, bias + other_bias) for steps in (shared, own)]
        gates = [
            *input_gates[1][:, :N_LEFT].unbind(1),
            *(input_gates[0][step] for step in which.unbind(1)),
            *input_gates[1][:, N_LEFT:].unbind(1),
        ]
        hidden = cell = shared.new_zeros(len(frames), self._hidden)
        for from_input in gates:
            # torch's order: input, forget, cell, output gate
            i, f, g, o = (from_input + F.linear(hidden, recurrent)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self._output(hidden, own[:, -1]).float()

    def _output(self, hidden: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, 1024) of the forward direction's state (b, 512) and the last step (b, 3584)."""
        return F.relu(F.linear(torch.cat([hidden, self._backward_step(last)], dim=1), *self._final))

    def _backward_step(self, last: torch.Tensor) -> torch.Tensor:
        """The backward direction after its first step (b, 512), from a zero state."""
        gates = F.linear(last, self._backward_weight, self._backward_bias)
        i, _, g, o = gates.chunk(4, dim=1)  # the forget gate multiplies a cell of zero
        return o.sigmoid() * (i.sigmoid() * g.tanh()).tanh()
