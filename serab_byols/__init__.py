"""BYOL-S speech embeddings by the HEAR 2021 common API."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from serab_byols._version import __version__

if TYPE_CHECKING:
    from serab_byols.checkpoint import load_model, save_checkpoint
    from serab_byols.corpus import (
        DatasetSummary,
        Record,
        embed_audio,
        embed_dataset,
        embed_file,
        embed_files,
    )
    from serab_byols.errors import SerabByolsError
    from serab_byols.hear import get_scene_embeddings, get_timestamp_embeddings
    from serab_byols.model import ByolsModel, create_model

__all__ = [
    "ByolsModel",
    "DatasetSummary",
    "Record",
    "SerabByolsError",
    "__version__",
    "create_model",
    "embed_audio",
    "embed_dataset",
    "embed_file",
    "embed_files",
    "get_scene_embeddings",
    "get_timestamp_embeddings",
    "load_model",
    "save_checkpoint",
]

_MODULES = ("errors", "model", "hear", "checkpoint", "corpus")
"""Where the public names come from. They are imported on first use: ``serab-byols --help`` needs no torch."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            loaded = importlib.import_module(f"{__name__}.{module}")
            if hasattr(loaded, name):
                return getattr(loaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
