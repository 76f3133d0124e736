"""Checkpoints: read, recognise, write.

The project's own format is safetensors whose header describes the model: format version, encoder
and its configuration, front end, normalisation statistics, training facts. Published ``.pth`` files
are bare state dicts; encoder and size are recognised from their keys and shapes. Nothing is ever
unpickled that could run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from serab_byols._version import __version__
from serab_byols.encoders import ENCODERS, Encoder, create_encoder
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, InvalidInputError
from serab_byols.files import replaced_whole
from serab_byols.frontend import RECIPE, create_frontend
from serab_byols.model import ByolsModel
from serab_byols.normalization import Statistics, parse_normalization

FORMAT_VERSION = 1
HEADER_KEY = "serab_byols"

DEFAULT_CHECKPOINT = "byols-audiontt-512.safetensors"
"""What ``load_model()`` loads: the file of this name in ``checkpoints/``, which the wheel carries."""

_PACKAGE = Path(__file__).resolve().parent
CHECKPOINT_FOLDERS = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")
"""Package data of an installed wheel, and the folder of a source tree."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from a file, before a model is made of it."""

    path: Path
    format: str
    encoder: str
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    statistics: Statistics | None = None
    training_facts: dict[str, Any] = field(default_factory=dict)
    written_by: str | None = None

    def build_encoder(self) -> Encoder:
        """The encoder with these weights, in float32.

        Raises:
            CheckpointError: keys or shapes are not those of the encoder.
        """
        try:
            encoder = create_encoder(self.encoder, **self.config)
        except InvalidInputError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        _check_keys(self.path, self.encoder, encoder.state_dict(), self.state)
        encoder.load_state_dict(self.state)
        return encoder


def load_model(
    model_file_path: str | os.PathLike[str] = "",
    model_name: str | None = None,
    *,
    normalization: str | Sequence[float] = "auto",
    frontend: str = "torch",
    device: str | torch.device = "cpu",
) -> ByolsModel:
    """A model with trained weights, in eval mode (HEAR 2021 common API).

    Args:
        model_file_path: a checkpoint in this project's format (``.safetensors``) or a published
            ``.pth`` file; empty for the default weights.
        model_name: ``"default"``, ``"resnetish34"``, ``"clstm"`` or ``"cvt"``; only a check, since
            the file speaks for itself.
        normalization: ``"auto"``, ``"clip"``, ``"batch"``, ``"hear2021"`` or (mean, std); see
            :mod:`serab_byols.normalization`.
        frontend: ``"torch"``, ``"nnaudio"`` or ``"torchaudio"``.
        device: where the model goes; nothing is chosen silently.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: corrupt, foreign, or not the encoder that ``model_name`` says.
        InvalidInputError: an option that does not exist.
        MissingExtraError: the front end's package is not installed.
    """
    if model_name is not None and model_name not in ENCODERS:
        raise InvalidInputError(f"unknown model_name {model_name!r}; choose from {', '.join(ENCODERS)}")
    parse_normalization(normalization)
    path = Path(model_file_path) if os.fspath(model_file_path) else default_checkpoint()
    checkpoint = read_checkpoint(path)
    if model_name is not None and model_name != checkpoint.encoder:
        raise CheckpointError(
            f"{path} holds the encoder {checkpoint.encoder!r}, but model_name says {model_name!r}"
        )
    model = ByolsModel(
        checkpoint.build_encoder(),
        create_frontend(frontend),
        normalization=normalization,
        statistics=checkpoint.statistics,
        training_facts=checkpoint.training_facts,
        source=path.name,
    )
    return model.eval().to(device)


def default_checkpoint() -> Path:
    """Path of the default weights.

    Raises:
        CheckpointNotFoundError: this installation carries none.
    """
    for folder in CHECKPOINT_FOLDERS:
        path = folder / DEFAULT_CHECKPOINT
        if path.is_file():
            return path
    raise CheckpointNotFoundError(
        "this version carries no default weights yet. Pass the path of a checkpoint, "
        'load_model("path/to/weights.pth"), or use random weights as a baseline, create_model("default")'
    )


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and recognise a checkpoint of either format.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: the file is corrupt, truncated, or not a BYOL-S checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise CheckpointNotFoundError(f"checkpoint {path} {what}")
    if zipfile.is_zipfile(path):
        return _read_legacy(path)
    if _looks_like_safetensors(path):
        return _read_safetensors(path)
    raise CheckpointError(
        f"{path} is neither a safetensors file nor a PyTorch zip archive (torch.save of 1.6 or newer): "
        "it is corrupt, truncated or something else"
    )


def _looks_like_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if header is None:
        # Weights that someone converted by other means: as good as a bare state dict.
        return _recognise(path, "safetensors without a description", state)
    try:
        return _described(path, json.loads(header), state)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} describes itself wrongly: {error!r}") from error


def _described(path: Path, header: dict[str, Any], state: dict[str, torch.Tensor]) -> Checkpoint:
    if header["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {header['format_version']}, this library reads up to "
            f"{FORMAT_VERSION}: install a newer serab-byols"
        )
    if header["frontend"] != RECIPE:
        raise CheckpointError(
            f"{path} was trained with the front end {header['frontend']}, this library has {RECIPE}"
        )
    statistics = header["normalization"]
    return Checkpoint(
        path=path,
        format=f"serab_byols safetensors, version {header['format_version']}",
        encoder=header["encoder"],
        config=dict(header["encoder_config"]),
        state=state,
        statistics=None if statistics is None else _statistics(statistics),
        training_facts=dict(header["training"]),
        written_by=header.get("written_by"),
    )


def _statistics(numbers: Mapping[str, float]) -> Statistics:
    parsed = parse_normalization((numbers["mean"], numbers["std"]))
    assert isinstance(parsed, Statistics)
    return parsed


def _read_legacy(path: Path) -> Checkpoint:
    try:
        # The zip format only: the older tar format of torch.load has had holes despite weights_only.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, so it was not opened: unpickling it could run code"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise CheckpointError(f"{path} is not a whole PyTorch archive: {error}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path} is not a state dict: expected a mapping of names to tensors")
    return _recognise(path, "PyTorch state dict", dict(state))


def _recognise(path: Path, form: str, state: dict[str, torch.Tensor]) -> Checkpoint:
    for name, encoder in ENCODERS.items():
        try:
            config = encoder.config_from_state_dict(state)
        except (KeyError, IndexError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{path} looks like the encoder {name!r}, but lacks or misshapes {error}"
            ) from error
        if config is not None:
            return Checkpoint(path, form, name, config, state)
    some = ", ".join(list(state)[:4])
    raise CheckpointError(
        f"{path} is no BYOL-S encoder ({', '.join(ENCODERS)}): its {len(state)} keys begin with {some}"
    )


def _check_keys(
    path: Path, name: str, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} is unexpected" for key in found if key not in expected]
    problems += [
        f"{key} has shape {tuple(found[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"{path} does not fit the encoder {name!r}: {'; '.join(problems[:3])}{more}")


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
        statistics: (mean, std) for ``normalization="auto"``; by default those the model carries.
        training_facts: JSON-serialisable facts for people, merged over those the model carries.
        dtype: storage type of floating-point weights, such as ``torch.float16``; by default theirs.

    Returns:
        The path.

    Raises:
        InvalidInputError: another ending, facts that JSON cannot hold, or an integer ``dtype``.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InvalidInputError(f"a checkpoint's name ends in .safetensors, got {path.name!r}")
    if dtype is not None and not dtype.is_floating_point:
        raise InvalidInputError(f"weights are stored in a floating-point type, not {dtype}")
    stats = model.statistics if statistics is None else parse_normalization(statistics)
    if isinstance(stats, str):
        raise InvalidInputError(f"statistics must be two numbers (mean, std), got {statistics!r}")
    header = {
        "format_version": FORMAT_VERSION,
        "encoder": model.encoder.name,
        "encoder_config": model.encoder.config,
        "frontend": RECIPE,
        "normalization": None if stats is None else stats._asdict(),
        "training": {**model.training_facts, **(training_facts or {})},
        "written_by": f"serab_byols {__version__}",
    }
    try:
        metadata = {HEADER_KEY: json.dumps(header, sort_keys=True, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"training_facts must be JSON-serialisable: {error}") from error
    state = {
        key: _stored(tensor, dtype).detach().cpu().clone().contiguous()
        for key, tensor in model.encoder.state_dict().items()
    }
    with replaced_whole(path) as scratch:
        save_file(state, scratch, metadata)
    return path


def _stored(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def weights_sha256(encoder: Encoder) -> str:
    """Identity of an encoder's weights, whatever file they came in: names, shapes, float bytes."""
    digest = hashlib.sha256()
    for key, tensor in encoder.state_dict().items():
        array = tensor.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        digest.update(f"{key}|{tuple(array.shape)}|".encode())
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()


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
