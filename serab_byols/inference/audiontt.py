"""AudioNTT for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from serab_byols.encoders import AudioNTT
from serab_byols.inference.base import PooledRunner, folded, mel_major


class AudioNTTRunner(PooledRunner):
    """Three folded convolutions, each pooled before its ReLU, and the linear layers on every step.

    The maximum commutes with ReLU, which never reverses an order; on a quarter of the values it
    costs a quarter.
    """

    stride = 8
    halo_before = halo_after = 8  # three 3-wide convolutions at strides 1, 2, 4 see 7 columns far

    def __init__(self, encoder: AudioNTT) -> None:
        features: Any = encoder.features  # as built: convolutions at 0, 4, 8, norms at 1, 5, 9
        fc: Any = encoder.fc
        self._convolutions = [folded(features[i], features[i + 1]) for i in (0, 4, 8)]
        self._linears = [(fc[i].weight, fc[i].bias) for i in (0, 3)]

    def n_steps(self, n_columns: int) -> int:
        return n_columns // self.stride

    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = log_mel[:, None].to(self._linears[0][0].dtype)
        for weight, bias in self._convolutions:
            x = F.max_pool2d(F.conv2d(x, weight, bias, padding=1), 2).relu_()
        x = mel_major(x)  # (b, T // 8, 512)
        for weight, bias in self._linears:
            x = F.linear(x, weight, bias).relu_()
        return x
