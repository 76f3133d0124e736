"""CLSTM for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from serab_byols.encoders import CLSTM
from serab_byols.inference.base import ConvolutionRunner, folded, max_pool_2x2, mel_major

CONVOLVED_COLUMNS = 400
"""Log-mel columns that go through the convolutions together; the first makes 6 MB of every hundred."""


class CLSTMRunner(ConvolutionRunner):
    """Folded convolutions; the forward LSTM in chunks that hand on its state; one backward step.

    Only the last time step is used, and there the backward direction has made a single step.
    """

    stride = 4
    chunk_columns = 400
    halo_before = 4
    halo_after = 12  # the first convolution has kernel 9 and padding 1: it looks ahead

    def __init__(self, encoder: CLSTM) -> None:
        conv: Any = encoder.conv  # as built: convolutions at 0 and 4, norms at 1 and 5
        weight, self._first_bias = folded(conv[0], conv[1])
        self._first_weight = weight.flatten(1)  # (256, 81)
        self._second = folded(conv[4], conv[5])
        lstm: Any = encoder.bilstm
        self._forward = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0]
        self._backward_weight = lstm.weight_ih_l0_reverse
        self._backward_bias = lstm.bias_ih_l0_reverse + lstm.bias_hh_l0_reverse
        self._hidden = lstm.hidden_size
        self._final: Any = encoder.fc_final[0]

    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        size = max(1, CONVOLVED_COLUMNS // log_mel.shape[2])
        return torch.cat([self._convolved(part) for part in log_mel.split(size)])  # (b, t, 3584)

    def _convolved(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = max_pool_2x2(self._first_convolution(log_mel)).relu_()
        weight, bias = self._second
        return mel_major(max_pool_2x2(F.conv2d(x, weight, bias, padding=1)).relu_())

    def _first_convolution(self, log_mel: torch.Tensor) -> torch.Tensor:
        """The 9x9 convolution of one channel as a matrix product, three times as fast on a CPU."""
        padded = F.pad(log_mel.to(self._first_weight.dtype), (1, 1, 1, 1))
        windows = padded.unfold(1, 9, 1).unfold(2, 9, 1)  # (b, 58, T - 6, 9, 9), a view
        rows = F.linear(windows.flatten(3), self._first_weight, self._first_bias)
        return rows.permute(0, 3, 1, 2)

    def run(self, log_mel: torch.Tensor) -> torch.Tensor:
        hidden = self._backward_weight.new_zeros(1, len(log_mel), self._hidden)
        cell = hidden
        last = hidden
        for steps in self.steps(log_mel):
            _, hidden, cell = torch.lstm(
                steps.contiguous(), (hidden, cell), self._forward, True, 1, 0.0, False, False, True
            )
            last = steps[:, -1]
        return F.relu(self._final(torch.cat([hidden[0], self._backward_step(last)], dim=1)))

    def _backward_step(self, last: torch.Tensor) -> torch.Tensor:
        """The backward direction after its first step (b, 512), from a zero state."""
        gates = F.linear(last, self._backward_weight, self._backward_bias)
        enter, _, update, leave = gates.chunk(4, dim=1)  # torch's order: i, f, g, o
        return leave.sigmoid() * (enter.sigmoid() * update.tanh()).tanh()
