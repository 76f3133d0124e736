"""Training checkpoints: all that a training needs to continue exactly."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from serab_byols.atomic_write import atomic_write
from serab_byols.errors import CheckpointError
from serab_byols.pretrain.config import PretrainConfig

DAMAGED = "is damaged and cannot be resumed from; --restart begins anew"
"""Said of a training checkpoint."""

_ENTRIES = {"step": int, "identity": dict, "network": dict, "optimizer": dict, "precision": dict}


def save_training(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, of which ``identity`` is an entry."""
    with atomic_write(path) as scratch:
        torch.save(state, scratch)


def read_training(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state that was saved, on the CPU.

    ``identity`` must not have changed since: ``config``, a dict of options, and hashes.

    Raises:
        CheckpointError: a damaged file, or another identity; the message names the differences.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(saved[name], kind) for name, kind in _ENTRIES.items()) or saved["step"] < 0:
            raise ValueError(f"entries of other types than {_ENTRIES}")
        differences = _differences(saved["identity"], identity)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise CheckpointError(f"{path} {DAMAGED}") from error
    if differences:
        raise CheckpointError(
            f"{path} was begun with other options: {'; '.join(differences)}. Give another output, the same "
            "options to resume, or --restart to begin anew"
        )
    return saved


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> list[str]:
    # An option that there was not yet has its default, which changes nothing.
    config = {field.name: field.default for field in fields(PretrainConfig)} | begun["config"]
    options = [
        f"{name} was {config[name]!r}, now {value!r}"
        for name, value in now["config"].items()
        if config[name] != value
    ]
    sources = [f"{name}: not the same" for name in now if name != "config" and begun.get(name) != now[name]]
    return options + sources
