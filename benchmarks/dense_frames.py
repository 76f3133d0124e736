"""The library as a HEAR module with dense timestamps: ``serab-byols hear evaluate dense_frames`` here."""

from __future__ import annotations

import torch

from serab_byols import get_scene_embeddings, load_model
from serab_byols import get_timestamp_embeddings as _timestamps
from serab_byols.model import ByolsModel

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def get_timestamp_embeddings(audio: torch.Tensor, model: ByolsModel) -> tuple[torch.Tensor, torch.Tensor]:
    """As the library's, with ``dense=True``."""
    embeddings, timestamps = _timestamps(audio, model, dense=True)
    assert isinstance(embeddings, torch.Tensor)
    assert isinstance(timestamps, torch.Tensor)
    return embeddings, timestamps
