"""The library as a HEAR module whose timestamps have options.

In this folder: ``serab-byols hear evaluate timestamp_options --tasks DIR --model-options '{"dense": true}'``.
"""

from __future__ import annotations

from typing import Any

import torch

import serab_byols
from serab_byols import get_scene_embeddings
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS
from serab_byols.model import ByolsModel

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

_OPTIONS = "timestamp_options"
"""The name under which a model carries them."""


def load_model(
    model_file_path: str = "",
    *,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    dense: bool = False,
    dtype: str = "float32",
    **options: Any,
) -> ByolsModel:
    """As the library's, with the options of its timestamps in milliseconds, and a dtype of the encoder."""
    model = serab_byols.load_model(model_file_path, **options).to(getattr(torch, dtype))
    setattr(model, _OPTIONS, {"frame_duration": frame_duration, "hop_size": hop_size, "dense": dense})
    return model


def get_timestamp_embeddings(audio: torch.Tensor, model: ByolsModel) -> tuple[torch.Tensor, torch.Tensor]:
    """As the library's, with the options that the model was loaded with."""
    embeddings, timestamps = serab_byols.get_timestamp_embeddings(audio, model, **getattr(model, _OPTIONS))
    assert isinstance(embeddings, torch.Tensor)
    assert isinstance(timestamps, torch.Tensor)
    return embeddings, timestamps
