"""Reading and recognising checkpoints of both formats.

Nothing is unpickled that could run code, and no size that a file claims is used before its weights
are seen to have it.
"""

from __future__ import annotations

import json
import os
import pickle
import reprlib
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from serab_byols.checkpoint.format import (
    FORMAT_VERSION,
    HEADER_KEY,
    STORAGE_TYPES,
    first_not_finite,
    header_sha256,
    weights_sha256,
)
from serab_byols.encoders import ENCODERS, Encoder, create_encoder
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, InvalidInputError
from serab_byols.frontend import RECIPE
from serab_byols.normalization import Statistics, parse_statistics
from serab_byols.paths import as_path

_ZIP = b"PK\x03\x04"
_FOLDER_MARK = 0x10
_OUR_ENTRIES = ('"encoder_config"', '"weights_sha256"', '"header_sha256"')
"""A file of ours has these in its description, whatever the damage to the key of that."""
_IN_A_MODEL = "encoder."
"""Before the keys of an encoder in the state dict of a model."""
_HOW_TO_SAVE = 'Save a model with serab_byols.save_checkpoint(model, "NAME.safetensors")'
_HEADER_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, which is JSON."""


@dataclass(frozen=True, repr=False)
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
    source: str | None = None
    """Where it came from, if that says more than the name of the file."""

    def __repr__(self) -> str:
        config = "".join(f", {key}={value}" for key, value in self.config.items())
        return (
            f"{type(self).__name__}({str(self.path)!r}, {self.format},\n"
            f"  encoder {self.encoder!r}{config}, {len(self.state)} tensors, "
            f"statistics {self.statistics and tuple(self.statistics)})"
        )

    def build_encoder(self) -> Encoder:
        """The encoder with these weights, in float32.

        Raises:
            CheckpointError: keys or shapes are not those of the encoder, or values are NaN, infinite
                or not those that were written.
        """
        # On "meta", sizes that a file claims take no memory before its shapes are seen to agree.
        # Encoders of fixed size are built directly: on "meta" some initialisers are slow.
        # The initial weights are replaced; drawing them must not change the caller's random state.
        with torch.device("meta") if self.config else nullcontext(), torch.random.fork_rng([]):
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
        not_finite = first_not_finite(weights)
        if not_finite:
            raise CheckpointError(
                f"{self.path}: {not_finite} holds NaN or infinity: damage, or a training that diverged"
            )
        for key, tensor in weights.items():
            if key.endswith("running_var") and (tensor < 0).any():
                raise CheckpointError(f"{self.path}: {key} has negative variances: damage")
        encoder.load_state_dict(weights, assign=True)
        if self.weights_sha256 is not None and self.weights_sha256 != weights_sha256(encoder):
            raise CheckpointError(f"{self.path} is damaged: its weights are not those that were written")
        return encoder


def read_checkpoint_file(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and recognise a checkpoint of either format.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: the file is corrupt, truncated, or not a BYOL-S checkpoint.
    """
    path = as_path(path, "a checkpoint")
    start = _first_bytes(path)
    if start.startswith(_ZIP):
        return _read_legacy(path)
    if start[_HEADER_LENGTH_BYTES:] == b"{":
        return read_safetensors(path)
    raise CheckpointError(
        f"{path} is neither a safetensors file nor a PyTorch zip archive (torch.save of 1.6 or newer): "
        "it is corrupt, truncated or something else"
    )


def _first_bytes(path: Path) -> bytes:
    """Enough of the file to tell the formats apart.

    Zip archives are recognised by their first bytes, as torch does it: a search for the archive's
    directory would also find one that follows a pickle, and torch would read that pickle.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(_HEADER_LENGTH_BYTES + 1)
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    raise CheckpointNotFoundError(f"checkpoint {path} {what}")


def read_safetensors(path: Path) -> Checkpoint:
    """Read and recognise a safetensors file; nothing else is opened.

    Raises:
        CheckpointError: it is no such file, or corrupt, truncated, or not a BYOL-S checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    description = metadata.get(HEADER_KEY)
    if description is None:
        if any(entry in text for text in (*metadata, *metadata.values()) for entry in _OUR_ENTRIES):
            raise CheckpointError(f"{path} is damaged: the key of its description is not {HEADER_KEY!r}")
        # Weights that were converted by other means; read like a bare state dict.
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
    if _entry(header, "header_sha256", str) != header_sha256(header):
        raise CheckpointError(f"{path} is damaged: its description is not the one that was written")
    recipe = _entry(header, "frontend", dict)
    if recipe != RECIPE:
        raise CheckpointError(f"{path} was trained with the front end {recipe}, this library has {RECIPE}")
    name = _entry(header, "encoder", str)
    if name not in ENCODERS:
        raise CheckpointError(f"{path} holds the unknown encoder {name!r}, not {', '.join(ENCODERS)}")
    numbers = _entry(header, "normalization", dict, type(None))
    statistics = None if numbers is None else [_entry(numbers, key, int, float) for key in Statistics._fields]
    return Checkpoint(
        path=path,
        format=f"serab_byols safetensors, version {version}",
        encoder=name,
        config=_agreed_config(path, name, _entry(header, "encoder_config", dict), state),
        state=state,
        statistics=parse_statistics(statistics),
        training_facts=_entry(header, "training", dict),
        written_by=_entry(header, "written_by", str),
        weights_sha256=_entry(header, "weights_sha256", str),
    )


def _entry(header: Mapping[str, Any], key: str, *types: type) -> Any:
    """``header[key]``, whose type is exactly one of ``types``: a boolean is not a number."""
    if key not in header:
        raise ValueError(f"{key} is missing")
    value = header[key]
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


def _read_legacy(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file:
            _check_archive(file)
            # The zip format only: the older tar format of torch.load has had holes despite weights_only.
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, such as a whole module, so it was not opened: unpickling it "
            f"could run code. {_HOW_TO_SAVE}"
        ) from error
    except Exception as error:  # torch and zipfile raise many kinds for a damaged archive
        raise CheckpointError(f"{path} is not a whole PyTorch archive: {error}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        got = f"the keys {reprlib.repr(list(state))}" if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(f"{path} is not a state dict, names to tensors: it holds {got}")
    # Called on the class, since a pickle may set attributes of a parameter, even its methods.
    state = {key: torch.Tensor.detach(value) for key, value in state.items()}
    return _recognise(path, "PyTorch state dict", state)


def _check_archive(file: BinaryIO) -> None:
    """Refuse damage, which torch does not look for, and archives that unpack to more bytes than they have."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > file.seek(0, os.SEEK_END):
            raise zipfile.BadZipFile(f"it would unpack to {unpacked} bytes, more than the file has")
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise zipfile.BadZipFile("it is a TorchScript archive, which holds code")
        # For an entry that is marked as a folder, torch returns uninitialised memory.
        if any(entry.external_attr & _FOLDER_MARK and not entry.is_dir() for entry in entries):
            raise zipfile.BadZipFile("its directory is damaged")
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"its entry {damaged!r} is damaged")
    file.seek(0)


def _recognise(path: Path, form: str, state: dict[str, torch.Tensor]) -> Checkpoint:
    if state and all(key.startswith(_IN_A_MODEL) for key in state):  # ByolsModel.state_dict()
        state = {key.removeprefix(_IN_A_MODEL): value for key, value in state.items()}
    for name in ENCODERS:
        config = _measured_config(path, name, state)
        if config is not None:
            return Checkpoint(path, form, name, config, state)
    raise CheckpointError(
        f"{path} is no BYOL-S encoder ({', '.join(ENCODERS)}): "
        f"it has {len(state)} tensors, {reprlib.repr(list(state))}"
        + (f". {_HOW_TO_SAVE}" if any(_IN_A_MODEL in key for key in state) else "")
    )


def _measured_config(path: Path, name: str, state: dict[str, torch.Tensor]) -> dict[str, Any] | None:
    """Configuration of the encoder ``name``, from its shapes; None if the keys are another encoder's."""
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
    """Why ``found`` cannot be the stored weights of ``like``; None if it can."""
    if found.shape != like.shape:
        return f"has shape {tuple(found.shape)}, expected {tuple(like.shape)}"
    if found.dtype not in (STORAGE_TYPES if like.is_floating_point() else (like.dtype,)):
        return f"has type {found.dtype}, expected {like.dtype}"
    if found.layout != torch.strided or found.device.type != "cpu":
        return "is no ordinary tensor"
    if found.untyped_storage().nbytes() < found.numel() * found.element_size():
        return "repeats fewer numbers than its shape has"
    return None
