"""AudioNTT, the encoder of BYOL-A (arXiv 2103.06695, table II), public name ``default``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from serab_byols.encoders.encoder import Encoder, flatten_mel_major, is_size, mean_max
from serab_byols.encoders.layer_geometry import Operation, layers_along
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import N_MELS

CHANNELS = 64
DROPOUT = 0.3
FEATURES = CHANNELS * (N_MELS // 8)
"""Channels times the mel bands that three halvings leave."""


_STAGES = ("conv1", "conv2", "conv3")


def _stage(in_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, CHANNELS, kernel_size=3, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


class AudioNTT(Encoder):
    """Three convolution stages, two linear layers per time step, mean plus maximum over time.

    Args:
        d: width of the linear layers and of the embedding (2048 and 512 have been published).
    """

    name = "default"
    min_columns = 8
    feature_layers = layers_along(
        [
            *(step for name in _STAGES for step in (Operation(3, padding=1), Operation(2, stride=2), name)),
            "fc1",
            "fc2",
        ]
    )

    def __init__(self, d: int = 2048) -> None:
        if not is_size(d):
            raise InvalidInputError(f"d is the width of the embedding, a whole number from 1, got {d!r}")
        d = int(d)
        super().__init__(embedding_size=d, config={"d": d})
        self.features = nn.Sequential(*_stage(1), *_stage(CHANNELS), *_stage(CHANNELS))
        self.fc = nn.Sequential(
            nn.Linear(FEATURES, d),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(d, d),
            nn.ReLU(),
        )

    @classmethod
    def config_from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
        if "features.0.weight" in state and "fc.0.weight" in state:
            return {"d": int(state["fc.0.weight"].shape[0])}
        return None

    def step_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(flatten_mel_major(self.features(x)))  # (B, 1, 64, T) to (B, T // 8, d)

    def local_layers(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        n_parts = len(self.features) // len(_STAGES)
        for i, name in enumerate(_STAGES):
            x = self.features[i * n_parts : (i + 1) * n_parts](x)
            yield name, x
        x = self.fc[:2](flatten_mel_major(x))
        yield "fc1", x
        yield "fc2", self.fc[2:](x)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return mean_max(self.step_features(x))
