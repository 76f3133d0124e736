"""What every encoder has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import nn

from serab_byols.encoders.layer_geometry import Layer
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import N_MELS, SAMPLE_RATE_HZ

EncoderName = Literal["default", "resnetish34", "clstm", "cvt"]


class Encoder(nn.Module):
    """Normalised log-mel spectrogram to embedding.

    Shape:
        - input: (B, 1, 64 mel, T), T of at least ``min_columns``
        - output: (B, ``embedding_size``)

    Attributes:
        name: the public model name, as in ``load_model(path, name)``.
        min_columns: the shortest T that leaves at least one step after pooling.
        embedding_size: width D of the embedding; ``scene_embedding_size`` and
            ``timestamp_embedding_size`` (HEAR 2021 common API) equal it.
        config: constructor arguments that build the same architecture again.
        feature_layers: the layers whose steps can be had as features, by name, in order. The last one is
            what the embedding is pooled from.
    """

    name: ClassVar[EncoderName]
    min_columns: ClassVar[int]
    feature_layers: ClassVar[dict[str, Layer]] = {}
    sample_rate: ClassVar[int] = SAMPLE_RATE_HZ

    def __init__(self, embedding_size: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.config = config

    @property
    def scene_embedding_size(self) -> int:
        return self.embedding_size

    @property
    def timestamp_embedding_size(self) -> int:
        return self.embedding_size

    @classmethod
    def config_from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
        """Constructor arguments read off keys and shapes; None if ``state`` is another encoder's."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] != N_MELS or x.shape[3] < self.min_columns:
            raise InvalidInputError(
                f"the {self.name!r} encoder takes a log-mel of shape (batch, 1, {N_MELS}, columns) "
                f"with at least {self.min_columns} columns, got {tuple(x.shape)}"
            )
        return self.encode(x)

    def step_features(self, x: torch.Tensor) -> torch.Tensor | None:
        """Features (B, T', D) of the time steps, whose mean plus maximum is the embedding.

        None for encoders that do not make their embedding that way.
        """
        return None

    def local_layers(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and outputs, layer after layer, of the feature layers with a bounded receptive field.

        Outputs are (B, C, M, T') or, where mels are flattened already, (B, T', F).
        """
        yield from ()

    def global_layers(
        self, x: torch.Tensor, steps: torch.Tensor | None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The same of those that depend on the whole clip; ``steps`` (B, T', F): the last local layer's."""
        yield from ()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The encoder proper, on an input that has been checked."""
        raise NotImplementedError


def is_size(value: object) -> bool:
    """Whether it is a whole number from 1."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def unwrapped(encoder: Encoder) -> Encoder:
    """The encoder itself where ``torch.compile`` has wrapped it, else the encoder as it is."""
    return getattr(encoder, "_orig_mod", encoder)


def flatten_mel_major(x: torch.Tensor) -> torch.Tensor:
    """(B, C, M, T) to (B, T, M * C): mel varies slowly, channel fast, as the published weights expect."""
    return rearrange(x, "b c m t -> b t (m c)")


def mean_max(x: torch.Tensor) -> torch.Tensor:
    """(B, T, D) to (B, D): mean over time plus maximum over time (BYOL-A, arXiv 2103.06695, IV-B)."""
    return x.mean(dim=1) + x.amax(dim=1)
