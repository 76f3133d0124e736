"""Writing checkpoints in the project's own format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from serab_byols._version import __version__
from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint.format import (
    FORMAT_VERSION,
    HEADER_KEY,
    STORAGE_TYPES,
    first_not_finite,
    header_sha256,
    state_sha256,
)
from serab_byols.encoders import unwrapped
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import RECIPE
from serab_byols.model import ByolsModel
from serab_byols.normalization import parse_statistics
from serab_byols.paths import as_path


def save_checkpoint(
    model: ByolsModel,
    path: str | os.PathLike[str],
    *,
    statistics: Sequence[float] | None = None,
    training_facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model's encoder as a safetensors file that describes itself.

    The file appears whole or not at all.

    Args:
        model: its encoder, statistics and training facts are written; front ends hold no weights.
        path: where to; must end in ``.safetensors``.
        statistics: (mean, std) for ``normalization="auto"``; by default the model's.
        training_facts: JSON-serialisable facts for people; they override those the model has.
        dtype: storage type of floating-point weights, such as ``torch.float16``; by default theirs.

    Returns:
        The path.

    Raises:
        InvalidInputError: another ending, facts that JSON cannot hold, a ``dtype`` that is not one of
            ``STORAGE_TYPES``, or weights that are NaN or infinite (in that type).
        OSError: the folder does not exist or cannot be written.

    Example:
        >>> import tempfile
        >>> model = serab_byols.create_model("default", d=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = serab_byols.save_checkpoint(model, f"{folder}/small.safetensors")
        ...     serab_byols.load_model(path).embedding_size
        64
    """
    path = as_path(path, "the output")
    if path.suffix != ".safetensors":
        raise InvalidInputError(f"a checkpoint's name ends in .safetensors, got {path.name!r}")
    if dtype is not None and dtype not in STORAGE_TYPES:
        raise InvalidInputError(f"weights are stored as one of {STORAGE_TYPES}, not {dtype}")
    stats = model.statistics if statistics is None else parse_statistics(statistics)
    state = {
        key: _stored(tensor, dtype).detach().cpu().clone().contiguous()
        for key, tensor in unwrapped(model.encoder).state_dict().items()
    }
    not_finite = first_not_finite(state)
    if not_finite:
        raise InvalidInputError(
            f"{not_finite} holds NaN or infinity, or would as {state[not_finite].dtype}: nothing was written"
        )
    header = {
        "format_version": FORMAT_VERSION,
        "encoder": model.encoder.name,
        "encoder_config": model.encoder.config,
        "frontend": RECIPE,
        "normalization": None if stats is None else stats._asdict(),
        "training": {**model.training_facts, **(training_facts or {})},
        "written_by": f"serab_byols {__version__}",
        "weights_sha256": state_sha256(state),
    }
    try:
        header["header_sha256"] = header_sha256(header)
        metadata = {HEADER_KEY: json.dumps(header, sort_keys=True, allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"training_facts must be JSON-serialisable: {error}") from error
    with atomic_write(path) as scratch:
        try:
            save_file(state, scratch, metadata)
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{path} could not be written: {error}") from error
    return path


def _stored(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
