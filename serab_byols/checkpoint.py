"""Checkpoints: read, recognise, write.

The project's own format is safetensors whose header describes the model: format version, encoder
and its configuration, front end, normalisation statistics, training facts. Published ``.pth`` files
are bare state dicts; encoder and size are recognised from their keys and shapes. Nothing is ever
unpickled that could run code, and no size that a file claims is believed before its weights are
seen to have it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import reprlib
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

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
STORAGE_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Of weights in a file; a model that is loaded has float32."""

DEFAULT_CHECKPOINT = "byols-audiontt-512.safetensors"
"""What ``load_model()`` loads: the file of this name in ``checkpoints/``, which the wheel carries."""

_ZIP = b"PK\x03\x04"
_FOLDER_MARK = 0x10
_HEADER_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, which is JSON."""

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
    weights_sha256: str | None = None

    def build_encoder(self) -> Encoder:
        """The encoder with these weights, in float32.

        Raises:
            CheckpointError: keys or shapes are not those of the encoder, or values are NaN, infinite
                or not those that were written.
        """
        # Sizes that a file chose take no memory before its shapes are seen to agree. The encoders
        # whose sizes are fixed are spared the detour: on "meta" some initialisers are slow.
        with torch.device("meta") if self.config else nullcontext():
            try:
                encoder = create_encoder(self.encoder, **self.config)
            except InvalidInputError as error:
                raise CheckpointError(f"{self.path}: {error}") from error
        expected = encoder.state_dict()
        _check_fit(self.path, self.encoder, expected, self.state)
        weights = {
            key: self.state[key].to(like.dtype, copy=True, memory_format=torch.contiguous_format)
            for key, like in expected.items()
        }
        not_finite = _first_not_finite(weights)
        if not_finite:
            raise CheckpointError(
                f"{self.path}: {not_finite} holds NaN or infinity: damage, or a training that diverged"
            )
        encoder.load_state_dict(weights, assign=True)
        if self.weights_sha256 is not None and self.weights_sha256 != weights_sha256(encoder):
            raise CheckpointError(f"{self.path} is damaged: its weights are not those that were written")
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
    start = _first_bytes(path)
    if start.startswith(_ZIP):
        return _read_legacy(path)
    if start[_HEADER_LENGTH_BYTES:] == b"{":
        return _read_safetensors(path)
    raise CheckpointError(
        f"{path} is neither a safetensors file nor a PyTorch zip archive (torch.save of 1.6 or newer): "
        "it is corrupt, truncated or something else"
    )


def _first_bytes(path: Path) -> bytes:
    """Enough of the file to tell the formats apart.

    Zip archives are told by their beginning, as torch does: a search for their directory would find
    one behind a pickle, too, and torch would read that pickle in its old format.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(_HEADER_LENGTH_BYTES + 1)
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    raise CheckpointNotFoundError(f"checkpoint {path} {what}")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get(HEADER_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if description is None:
        # Weights that someone converted by other means: as good as a bare state dict.
        return _recognise(path, "safetensors without a description", state)
    try:
        return _described(path, description, state)
    except CheckpointError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} describes itself wrongly: {error}") from error


def _described(path: Path, description: str, state: dict[str, torch.Tensor]) -> Checkpoint:
    header = _entry({"description": json.loads(description)}, "description", dict)
    json.dumps(header, allow_nan=False)  # raises for the NaN and Infinity that json.loads lets pass
    version = _entry(header, "format_version", int)
    if not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {reprlib.repr(version)}, this library reads up to "
            f"{FORMAT_VERSION}: install a newer serab-byols"
        )
    recipe = _entry(header, "frontend", dict)
    if recipe != RECIPE:
        raise CheckpointError(f"{path} was trained with the front end {recipe}, this library has {RECIPE}")
    name = _entry(header, "encoder", str)
    if name not in ENCODERS:
        raise CheckpointError(f"{path} holds the unknown encoder {name!r}, not {', '.join(ENCODERS)}")
    statistics = _entry(header, "normalization", dict, type(None))
    return Checkpoint(
        path=path,
        format=f"serab_byols safetensors, version {version}",
        encoder=name,
        config=_agreed_config(path, name, _entry(header, "encoder_config", dict), state),
        state=state,
        statistics=None if statistics is None else _statistics(statistics),
        training_facts=_entry(header, "training", dict),
        written_by=_entry(header, "written_by", str),
        weights_sha256=_entry(header, "weights_sha256", str),
    )


def _entry(header: Mapping[str, Any], key: str, *types: type) -> Any:
    """``header[key]``, which is of one of ``types``, exactly: in JSON a truth value is no number."""
    value = header.get(key)
    if type(value) not in types:
        names = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"{key} is {reprlib.repr(value)}, expected {names}")
    return value


def _agreed_config(
    path: Path, name: str, claimed: dict[str, Any], state: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The configuration that a file claims, whose sizes must be those of its weights."""
    measured = _measured_config(path, name, state)
    if measured is None:
        raise CheckpointError(f"{path} says that it holds the encoder {name!r}, but its weights are not")
    for key, value in measured.items():
        if claimed.get(key) != value:
            raise CheckpointError(
                f"{path} says {key}={reprlib.repr(claimed.get(key))}, but its weights have {key}={value}"
            )
    return {**claimed, **measured}


def _statistics(numbers: Mapping[str, float]) -> Statistics:
    parsed = parse_normalization([_entry(numbers, key, int, float) for key in Statistics._fields])
    assert isinstance(parsed, Statistics)
    return parsed


def _read_legacy(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file:
            _check_archive(file)
            # The zip format only: the older tar format of torch.load has had holes despite weights_only.
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, so it was not opened: unpickling it could run code"
        ) from error
    except Exception as error:  # torch and zipfile raise many kinds for a damaged archive
        raise CheckpointError(f"{path} is not a whole PyTorch archive: {error}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        got = f"the keys {reprlib.repr(list(state))}" if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(f"{path} is not a state dict, names to tensors: it holds {got}")
    # By the class, since a pickle may set attributes of a parameter, its methods included.
    state = {key: torch.Tensor.detach(value) for key, value in state.items()}
    return _recognise(path, "PyTorch state dict", state)


def _check_archive(file: BinaryIO) -> None:
    """Refuse damage, which torch does not look for, and archives that unpack to more than they are."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > file.seek(0, os.SEEK_END):
            raise zipfile.BadZipFile(f"it would unpack to {unpacked} bytes, more than it has")
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise zipfile.BadZipFile("it is a TorchScript archive, which holds code")
        # For what is marked as a folder torch returns memory that it has not filled.
        if any(entry.external_attr & _FOLDER_MARK and not entry.is_dir() for entry in entries):
            raise zipfile.BadZipFile("its directory is damaged")
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"its part {damaged!r} is damaged")
    file.seek(0)


def _recognise(path: Path, form: str, state: dict[str, torch.Tensor]) -> Checkpoint:
    for name in ENCODERS:
        config = _measured_config(path, name, state)
        if config is not None:
            return Checkpoint(path, form, name, config, state)
    raise CheckpointError(
        f"{path} is no BYOL-S encoder ({', '.join(ENCODERS)}): "
        f"it has {len(state)} tensors, {reprlib.repr(list(state))}"
    )


def _measured_config(path: Path, name: str, state: dict[str, torch.Tensor]) -> dict[str, Any] | None:
    """Configuration of the encoder ``name`` read off shapes; None if these are another's keys."""
    try:
        config = ENCODERS[name].config_from_state_dict(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} looks like the encoder {name!r}, but lacks or misshapes {error}"
        ) from error
    for key, value in (config or {}).items():
        if min(value if isinstance(value, list) else [value]) < 1:
            raise CheckpointError(f"{path} looks like the encoder {name!r}, but has {key}={value}")
    return config


def _check_fit(
    path: Path, name: str, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key[:100]!r} is unexpected" for key in found if key not in expected]
    problems += [
        f"{key} {problem}"
        for key, like in expected.items()
        if key in found and (problem := _misfit(found[key], like))
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"{path} does not fit the encoder {name!r}: {'; '.join(problems[:3])}{more}")


def _misfit(found: torch.Tensor, like: torch.Tensor) -> str | None:
    """What keeps ``found`` from being stored weights for ``like``."""
    if found.shape != like.shape:
        return f"has shape {tuple(found.shape)}, expected {tuple(like.shape)}"
    if found.dtype not in (STORAGE_TYPES if like.is_floating_point() else (like.dtype,)):
        return f"has type {found.dtype}, expected {like.dtype}"
    if found.layout != torch.strided or found.device.type != "cpu":
        return "is no ordinary tensor"
    if found.untyped_storage().nbytes() < found.numel() * found.element_size():
        return "repeats fewer numbers than its shape has"
    return None


def _first_not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """Key of a tensor that would be NaN or infinite in float32, if only in part; extremes show it."""
    extremes = ((key, torch.stack(tensor.float().aminmax())) for key, tensor in state.items())
    return next((key for key, pair in extremes if not pair.isfinite().all()), None)


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
        InvalidInputError: another ending, facts that JSON cannot hold, a ``dtype`` that is not one of
            ``STORAGE_TYPES``, or weights that are NaN or infinite, if only in that type.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InvalidInputError(f"a checkpoint's name ends in .safetensors, got {path.name!r}")
    if dtype is not None and dtype not in STORAGE_TYPES:
        raise InvalidInputError(f"weights are stored as one of {STORAGE_TYPES}, not {dtype}")
    stats = model.statistics if statistics is None else parse_normalization(statistics)
    if isinstance(stats, str):
        raise InvalidInputError(f"statistics must be two numbers (mean, std), got {statistics!r}")
    # torch.compile wraps a module and prefixes its keys; what it wraps has the published ones.
    encoder = getattr(model.encoder, "_orig_mod", model.encoder)
    state = {
        key: _stored(tensor, dtype).detach().cpu().clone().contiguous()
        for key, tensor in encoder.state_dict().items()
    }
    not_finite = _first_not_finite(state)
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
        "weights_sha256": _sha256(state),
    }
    try:
        metadata = {HEADER_KEY: json.dumps(header, sort_keys=True, allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"training_facts must be JSON-serialisable: {error}") from error
    with replaced_whole(path) as scratch:
        try:
            save_file(state, scratch, metadata)
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{path} could not be written: {error}") from error
    return path


def _stored(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def weights_sha256(encoder: Encoder) -> str:
    """Identity of an encoder's weights, whatever file they came in: names, shapes, float bytes."""
    return _sha256(encoder.state_dict())


def _sha256(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in state.items():
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
