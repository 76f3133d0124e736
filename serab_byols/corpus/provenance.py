"""What made a table of embeddings: facts about the model, kept in the table's metadata."""

from __future__ import annotations

from typing import Any

from serab_byols._version import __version__
from serab_byols.checkpoint import weights_sha256
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.model import ByolsModel


def describe_frames(grid: FrameGrid | None, dense: bool) -> dict[str, Any]:
    """What identifies the frames of a table; nothing for scenes."""
    if grid is None:
        return {}
    return {"frame_duration_ms": grid.frame_ms, "hop_size_ms": grid.hop_ms, "dense": dense}


def describe_model(model: ByolsModel) -> dict[str, Any]:
    """What identifies a model in the table it made: JSON-serialisable."""
    rule = model.resolved_normalization
    return {
        "serab_byols": __version__,
        "encoder": model.encoder.name,
        "encoder_config": model.encoder.config,
        "embedding_size": model.embedding_size,
        "weights": model.source,
        "weights_sha256": weights_sha256(model.encoder),
        "normalization": rule if isinstance(rule, str) else list(rule),
        "frontend": model.frontend.name,
        "sample_rate": model.sample_rate,
    }
