"""CLSTM: convolutions and a bidirectional LSTM (doi 10.1515/jisys-2018-0372), public name ``clstm``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from serab_byols.encoders.encoder import Encoder, flatten_mel_major
from serab_byols.encoders.layer_geometry import WHOLE_CLIP, Operation, layers_along

CHANNELS = 256
HIDDEN = 512
MELS_AFTER_CONVOLUTIONS = 14

_LAYERS = layers_along(
    [
        *(Operation(9, padding=1), Operation(2, stride=2), "conv1"),
        *(Operation(3, padding=1), Operation(2, stride=2), "conv2"),
        "lstm",
    ]
)


class CLSTM(Encoder):
    """Two convolution stages, a bidirectional LSTM, and a linear layer on its last time step.

    At the last step the forward direction has seen the whole input and the backward direction a single
    step. The published architecture is defined that way.
    """

    name = "clstm"
    min_columns = 10
    feature_layers = {**_LAYERS, "lstm": replace(_LAYERS["lstm"], receptive=WHOLE_CLIP)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(embedding_size=2 * HIDDEN, config={})
        self.conv = nn.Sequential(
            nn.Conv2d(1, CHANNELS, kernel_size=9, padding=1),  # 64 mels to 58, T to T - 6
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(CHANNELS, CHANNELS, kernel_size=(4, 3), padding=1),  # 29 mels to 28
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.bilstm = nn.LSTM(
            CHANNELS * MELS_AFTER_CONVOLUTIONS, HIDDEN, batch_first=True, bidirectional=True
        )
        self.fc_final = nn.Sequential(nn.Linear(2 * HIDDEN, 2 * HIDDEN), nn.ReLU())

    @classmethod
    def config_from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
        return {} if "bilstm.weight_ih_l0" in state and "conv.0.weight" in state else None

    def local_layers(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        x = self.conv[:4](x)
        yield "conv1", x
        yield "conv2", self.conv[4:](x)

    def global_layers(
        self, x: torch.Tensor, steps: torch.Tensor | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        yield "lstm", self.bilstm(steps)[0]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.bilstm(flatten_mel_major(self.conv(x)))  # (B, T'', 1024)
        return self.fc_final(steps[:, -1])
