"""Lists of segments (CSV, Parquet, npz): their columns and rows, checked.

A column ``path`` is relative to the list's folder. A column ``file`` is what tables of this library have;
its names are as they were given when the table was made, relative to the current folder.
"""

from __future__ import annotations

import csv
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from serab_byols.corpus.remote import LocalCopy, is_url
from serab_byols.corpus.segments import Segment
from serab_byols.corpus.tables import METADATA_KEY, pyarrow_packages
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.paths import suffix_of

LIST_SUFFIXES = (".csv", ".parquet", ".npz")

_BOUNDS = ("start", "end")
_NAMES = ("path", "file")
OUR_COLUMNS = ("time", "scale", "embedding")
"""What a table of embeddings has beside names and bounds: not carried from a table of ours to another."""


def is_list(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a list of segments, by its suffix."""
    return suffix_of(path) in LIST_SUFFIXES


def read_list(path: str | os.PathLike[str]) -> Iterator[Segment]:
    """Segments of a list, with its other columns.

    Raises:
        InvalidInputError: it cannot be read, has no column ``path`` (or ``file``), has one twice, or one that
            is nearly the name of ours.
    """
    with _local_list(path) as local:
        rows = _READERS[suffix_of(path)](local)
        yield from (segment_in_row(row, os.fspath(path), os.fspath(path)) for row in rows)


@contextmanager
def _local_list(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The list, or a copy of it; what is wrong with it is an error that names it."""
    try:
        with LocalCopy(path) as copy, copy.named():
            yield Path(copy.path)
    except (InvalidInputError, MissingExtraError):
        raise
    except Exception as error:  # pyarrow and zipfile raise many kinds
        raise InvalidInputError(f"the list {os.fspath(path)} cannot be read: {error}") from error


def carried_columns(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Names and Arrow types of the columns that a list carries through; None stands for text.

    Raises:
        InvalidInputError: as for :func:`read_list`, or a table of embeddings has a column of that name.
    """
    with _local_list(path) as local:
        named = _SCHEMAS[suffix_of(path)](local)
    taken = [name for name in named if name in OUR_COLUMNS]
    if taken or ("path" in named and "file" in named):
        name = (taken or ["file"])[0]
        raise InvalidInputError(
            f"{path} has the column {name!r}, which the table of embeddings has too: rename it"
        )
    return {name: kind for name, kind in named.items() if name not in (*_NAMES, *_BOUNDS)}


# CSV


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        reader.fieldnames = _checked_columns(path, reader.fieldnames or ())
        for row in reader:
            names = {name: row[name] or "" for name in _NAMES if name in row}  # a name may end in a space
            yield {**{name: (row[name] or "").strip() for name in reader.fieldnames}, **names}


def _csv_columns(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return dict.fromkeys(_checked_columns(path, csv.DictReader(file).fieldnames or ()))


# Parquet


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    columns = _parquet_columns(path)
    _, parquet = pyarrow_packages()
    with parquet.ParquetFile(path) as file:
        kept = [name for name in file.schema_arrow.names if name.strip().lower() in columns]
        for batch in file.iter_batches(batch_size=4096, columns=kept):
            yield from batch.rename_columns(list(columns)).to_pylist()


def _parquet_columns(path: Path) -> dict[str, Any]:
    _, parquet = pyarrow_packages()
    schema = parquet.read_schema(path)
    names = schema.names
    if METADATA_KEY.encode() in (schema.metadata or {}):  # a table of ours: embedded anew
        names = [name for name in names if name not in OUR_COLUMNS]
    # pandas stores its index under such a name
    names = [name for name in names if not name.startswith("__index_level_")]
    return dict(zip(_checked_columns(path, names), (schema.field(name).type for name in names)))


# npz, as `embed` writes it


def _npz_rows(path: Path) -> Iterator[dict[str, Any]]:
    with _open_npz(path) as archive:
        columns = {name: archive[name].tolist() for name in _npz_names(path, archive)}
    yield from (dict(zip(columns, row)) for row in zip(*columns.values(), strict=True))


def _npz_columns(path: Path) -> dict[str, Any]:
    with _open_npz(path) as archive:
        return {name: _arrow_type(archive[name].dtype) for name in _npz_names(path, archive)}


def _open_npz(path: Path) -> Any:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError("it is not an .npz file")
    return np.load(path, allow_pickle=False)


def _npz_names(path: Path, archive: Any) -> list[str]:
    return _checked_columns(path, [name for name in archive.files if name not in (*OUR_COLUMNS, "metadata")])


def _arrow_type(dtype: np.dtype) -> Any:
    if dtype.kind == "U":
        return None
    return pyarrow_packages()[0].from_numpy_dtype(dtype)


_READERS = {".csv": _csv_rows, ".parquet": _parquet_rows, ".npz": _npz_rows}
_SCHEMAS = {".csv": _csv_columns, ".parquet": _parquet_columns, ".npz": _npz_columns}


def _checked_columns(path: Path, names: Sequence[str]) -> list[str]:
    """Column names in lower case without surrounding spaces; near misses of ours would be ignored."""
    columns = [name.strip().lower() for name in names]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise InvalidInputError(f"{path} has the column {repeated[0]!r} more than once")
    if "path" not in columns and "file" not in columns:
        raise InvalidInputError(f"{path} needs a column named 'path'; it has {list(names) or 'no header'}")
    for name in columns:
        near = [
            ours
            for ours in ("path", *_BOUNDS)
            if name != ours and re.fullmatch(rf"{ours}[\W_]*(s|ms|sec|secs|seconds|time)?", name)
        ]
        if near:
            raise InvalidInputError(
                f"{path} has the column {name!r}, which would be ignored: is it {near[0]!r} (in seconds)? "
                "Rename it, to that or to something else"
            )
    return columns


def segment_in_row(row: Mapping[str, Any], source: str, list_path: str = "") -> Segment:
    """A row (``path`` or ``file``, ``start``, ``end``, others) as a segment, with what is wrong with it.

    Args:
        row: values by name of the column.
        source: what it is a row of, for errors.
        list_path: the list to whose folder ``path`` is relative.
    """
    columns = {name: value for name, value in row.items() if name not in (*_NAMES, *_BOUNDS)}
    file = row["path"] if "path" in row else row["file"]
    file = "" if file is None else str(file)
    path = _beside(list_path, file) if "path" in row else file
    if not file:
        return Segment(file, path, None, None, f"a row of {source} has an empty path", columns)
    try:
        start_s, end_s = _seconds(row, "start"), _seconds(row, "end")
    except ValueError as error:
        return Segment(file, path, None, None, str(error), columns)
    return Segment(file, path, start_s, end_s, None, columns)


def _beside(list_path: str, file: str) -> str:
    """A path relative to the list's folder; an absolute one and a URL stay as they are."""
    if is_url(file):
        return file
    return os.path.join(os.path.dirname(list_path), file)


def _seconds(row: Mapping[str, Any], column: str) -> float | None:
    cell = row.get(column)
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    try:
        seconds = cell.total_seconds() if hasattr(cell, "total_seconds") else float(cell)
    except (TypeError, ValueError):
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(f"{column} is not a number of seconds: {cell!r}")
    if seconds < 0 or (column == "start" and math.isinf(seconds)):
        raise ValueError(f"{column} must be a time within the file in seconds, got {cell}")
    return None if math.isinf(seconds) else seconds
