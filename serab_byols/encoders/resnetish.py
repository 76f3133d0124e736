"""Resnetish34: ResNet-34 (arXiv 1512.03385) on one-channel spectrograms, public name ``resnetish34``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from serab_byols.encoders.encoder import Encoder, flatten_mel_major, mean_max
from serab_byols.encoders.layer_geometry import Operation, layers_along
from serab_byols.frontend import N_MELS

STEM_CHANNELS = 64
LAYERS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Channels and number of blocks of each layer."""


def _path() -> Iterator[Operation | str]:
    """What the encoder does along time; the shortcuts see less than what they bypass."""
    yield from (Operation(7, padding=3), Operation(3, stride=2, padding=1), "stem")
    for i, (_, n_blocks) in enumerate(LAYERS, start=1):
        yield Operation(3, stride=1 if i == 1 else 2, padding=1)
        yield from [Operation(3, padding=1)] * (2 * n_blocks - 1)
        yield f"layer{i}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is convolved where stride or width changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class Resnetish34(Encoder):
    """ResNet-34 without average pool and classifier; the stem's convolution has stride 1."""

    name = "resnetish34"
    min_columns = 1
    feature_layers = layers_along(_path())

    def __init__(self) -> None:
        super().__init__(embedding_size=LAYERS[-1][0] * (N_MELS // 16), config={})
        self.conv1 = nn.Conv2d(1, STEM_CHANNELS, 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = STEM_CHANNELS
        for i, (channels, n_blocks) in enumerate(LAYERS, start=1):
            strides = [1 if i == 1 else 2] + [1] * (n_blocks - 1)
            blocks = []
            for stride in strides:
                blocks.append(BasicBlock(in_channels, channels, stride))
                in_channels = channels
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def layers(self) -> tuple[nn.Sequential, ...]:
        """The four residual layers, in order."""
        return tuple(getattr(self, f"layer{i}") for i in range(1, len(LAYERS) + 1))

    @classmethod
    def config_from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
        return {} if "layer1.0.conv1.weight" in state and "conv1.weight" in state else None

    def step_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for layer in self.layers:
            x = layer(x)
        return flatten_mel_major(x)  # (B, 512, 4, ceil(T / 16)) to (B, ceil(T / 16), 2048)

    def local_layers(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        yield "stem", x
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x)
            yield f"layer{i}", x

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return mean_max(self.step_features(x))
