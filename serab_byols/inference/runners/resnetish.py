"""Resnetish34 for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.encoders import Resnetish34
from serab_byols.encoders.resnetish import BasicBlock
from serab_byols.inference.runners.prepared_weights import Folded, fold_batch_norm
from serab_byols.inference.runners.runner import PooledRunner, as_image, mel_major


class Resnetish34Runner(PooledRunner):
    """Folded convolutions, the stem pooled before its ReLU, sums and ReLUs in place."""

    stride = 16
    # Columns that a step sees past its own: stem 3 + 1; layer1 6 convolutions at stride 2; layer2
    # 2 + 7 * 4; layer3 4 + 11 * 8; layer4 8 + 5 * 16: 226, and the next multiple of the stride.
    halo_before = halo_after = 240
    chunk_columns = 4800

    def __init__(self, encoder: Resnetish34) -> None:
        self._stem = fold_batch_norm(encoder.conv1, encoder.bn1)
        self._blocks = [_Block(block) for layer in encoder.layers for block in layer]

    def n_steps(self, n_columns: int) -> int:
        return -(-n_columns // self.stride)

    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        weight, bias = self._stem
        x = F.conv2d(as_image(log_mel, weight.dtype), weight, bias, padding=3)
        x = F.max_pool2d(x, 3, stride=2, padding=1).relu_()
        for block in self._blocks:
            x = block(x)
        return mel_major(x)


class _Block:
    """A residual block with its batch norms folded."""

    def __init__(self, block: nn.Module) -> None:
        assert isinstance(block, BasicBlock)
        self.stride = block.conv1.stride
        self.first = fold_batch_norm(block.conv1, block.bn1)
        self.second = fold_batch_norm(block.conv2, block.bn2)
        self.shortcut: Folded | None = None
        if block.downsample is not None:
            downsample: Any = block.downsample
            self.shortcut = fold_batch_norm(downsample[0], downsample[1])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else F.conv2d(x, *self.shortcut, stride=self.stride)
        x = F.conv2d(x, *self.first, stride=self.stride, padding=1).relu_()
        return F.conv2d(x, *self.second, padding=1).add_(shortcut).relu_()
