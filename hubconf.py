"""Entry points of ``torch.hub.load("OWNER/serab_byols", "byols")``, or of a clone with ``source="local"``."""

from __future__ import annotations

# torch.hub.list() shows every public callable of this module: what is imported must begin with an underscore.
from typing import Any as _Any

from serab_byols import ByolsModel as _ByolsModel
from serab_byols import create_model as _create_model
from serab_byols import load_model as _load_model

dependencies = [
    "einops",
    "filelock",
    "numpy",
    "pooch",
    "safetensors",
    "soundfile",
    "soxr",
    "torch",
    "tqdm",
]


def byols(weights: str = "", **options: _Any) -> _ByolsModel:
    """A BYOL-S model with trained weights, in eval mode: waveform (B, n) at 16 kHz to embedding (B, D).

    Args:
        weights: a name such as ``"byols-audiontt-2048"``, a path or ``"hf://owner/name"``; empty for the
            weights in the repository.
        **options: of :func:`serab_byols.load_model`: ``normalization``, ``frontend``, ``device``,
            ``cache_dir``, ``offline``.
    """
    return _load_model(weights, **options)


def byols_untrained(encoder: str = "default", **options: _Any) -> _ByolsModel:
    """A BYOL-S model with random weights, in eval mode: a baseline, or the start of a training.

    Args:
        encoder: ``"default"`` (AudioNTT), ``"resnetish34"``, ``"clstm"`` or ``"cvt"``.
        **options: of :func:`serab_byols.create_model`, such as ``d=512``.
    """
    return _create_model(encoder, **options)  # type: ignore[arg-type]  # checked there
