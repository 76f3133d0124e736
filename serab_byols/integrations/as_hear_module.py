"""Any features of a waveform, a scikit-learn transformer or a function, by the HEAR common API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.errors import InvalidInputError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS
from serab_byols.inference.frame_grid import MS_PER_S, FrameGrid

_BATCH_S = 300.0
"""Frames are cut out of the clip until they hold this many seconds, and passed on together."""

Features = Callable[[np.ndarray], Any]
"""Waveforms (n_clips, n_samples), float32, to features (n_clips, D)."""


class Transformer(Protocol):
    """As in scikit-learn, fitted or without a state."""

    def transform(self, samples: Any) -> Any:
        """As :data:`Features`."""
        ...


class HearFunctions(NamedTuple):
    """The three functions of the HEAR common API: an object with them, or three names of a module."""

    load_model: Callable[..., nn.Module]
    get_scene_embeddings: Callable[[torch.Tensor, Any], torch.Tensor]
    get_timestamp_embeddings: Callable[[torch.Tensor, Any], tuple[torch.Tensor, torch.Tensor]]


class FeaturesModel(nn.Module):
    """What ``load_model`` returns: features of waveforms, and the attributes that HEAR asks for."""

    def __init__(self, features: Features, sample_rate: int, grid: FrameGrid) -> None:
        super().__init__()
        self.features = features
        self.sample_rate = sample_rate
        self.grid = grid
        self.scene_embedding_size = self.timestamp_embedding_size = 0
        (size,) = self(torch.zeros(1, grid.frame_samples)).shape[1:]
        self.scene_embedding_size = self.timestamp_embedding_size = size

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Features (B, D), float32, of waveforms (B, n), on their device."""
        samples = waveform.detach().cpu().numpy().astype(np.float32, copy=False)
        features = self.features(samples)
        if isinstance(features, torch.Tensor):
            features = features.detach().cpu().numpy()
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 2 or len(features) != len(samples):
            raise InvalidInputError(
                f"features of {len(samples)} waveforms must have the shape ({len(samples)}, D), "
                f"got {features.shape}"
            )
        return torch.from_numpy(features).to(waveform.device)


def as_hear_module(
    features: Features | Transformer,
    sample_rate: int,
    *,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
) -> HearFunctions:
    """Give features of waveforms the functions of the HEAR common API.

    Scene embeddings are the features of whole clips. Timestamp embeddings are the features of frames that
    are centred on their timestamps; the clip is zero-padded at both ends.

    Args:
        features: a function of waveforms (n_clips, n_samples), float32 arrays, whose result is (n_clips,
            D), or an object with such a method ``transform``.
        sample_rate: that it expects, in Hz.
        frame_duration, hop_size: of the frames, in milliseconds.

    Returns:
        Three functions, for :func:`serab_byols.probe.probe`, or to be named in a module of their own, for the
        command ``serab-byols hear``.

    Raises:
        InvalidInputError: neither a function nor an object with ``transform``, or an impossible frame;
            when used: features of another shape.

    Example:
        >>> module = as_hear_module(lambda samples: samples.std(axis=1, keepdims=True), 16000)
        >>> module.get_scene_embeddings(torch.ones(2, 16000), module.load_model())
        tensor([[0.],
                [0.]])
    """
    transform = getattr(features, "transform", features)
    if isinstance(features, type) or not callable(transform):
        raise InvalidInputError(
            f"features must be a function or an object with the method 'transform', got {features!r}"
        )
    grid = FrameGrid(frame_duration, hop_size, sample_rate)

    def load_model(model_file_path: str = "") -> FeaturesModel:
        if model_file_path:
            raise InvalidInputError(f"these features have no weights to load, got {model_file_path!r}")
        return FeaturesModel(transform, sample_rate, grid)

    return HearFunctions(load_model, get_scene_embeddings, get_timestamp_embeddings)


def get_scene_embeddings(audio: torch.Tensor, model: FeaturesModel) -> torch.Tensor:
    """Features (n_clips, D) of clips (n_clips, n_samples)."""
    return model(audio)


def get_timestamp_embeddings(audio: torch.Tensor, model: FeaturesModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n_clips, T, D) of the frames of clips (n_clips, n_samples), and their centres in ms."""
    grid = model.grid
    n_clips, n_samples = audio.shape
    n_frames = grid.n_frames(n_samples)
    padded = F.pad(audio, (grid.pad_before_samples, grid.pad_after_samples))
    n_at_once = max(1, int(_BATCH_S * MS_PER_S / (grid.frame_ms * max(n_clips, 1))))
    features = []
    for first in range(0, n_frames, n_at_once):
        starts = grid.starts(first, min(first + n_at_once, n_frames)).tolist()
        frames = torch.stack([padded[:, start : start + grid.frame_samples] for start in starts], dim=1)
        features.append(model(frames.flatten(0, 1)).unflatten(0, (n_clips, len(starts))))
    timestamps = torch.from_numpy(grid.timestamps_ms(n_frames)).to(audio.device)
    return torch.cat(features, dim=1), timestamps.repeat(n_clips, 1)
