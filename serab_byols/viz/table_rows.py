"""A table of embeddings in memory: from Parquet, npz, a dataset folder or a pandas DataFrame."""

from __future__ import annotations

import math
import os
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serab_byols.corpus.reading_tables import files_of_table, scaled
from serab_byols.corpus.tables import pyarrow_packages
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.paths import AnyPath, as_path

if TYPE_CHECKING:
    from pandas import DataFrame

EMBEDDING, SCALE = "embedding", "scale"
_NUMBERED = re.compile(r"(?:(?:byols|embedding)_)?\d+")
"""Columns that hold one number of the embedding each, as ``integrations.pandas.to_frame`` makes them."""


@dataclass(frozen=True)
class TableRows:
    """Embeddings and what is known of each.

    Attributes:
        columns: by name, all of n rows: text as object arrays of str, numbers as they are; times in seconds.
        embedding: float32 (n, D), finite.
        sources: files that it was read from.
    """

    columns: Mapping[str, np.ndarray]
    embedding: np.ndarray
    sources: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.embedding)

    def column(self, name: str) -> np.ndarray:
        """The column of that name.

        Raises:
            InvalidInputError: there is none.
        """
        if name not in self.columns:
            known = ", ".join(map(repr, self.columns)) or "none"
            raise InvalidInputError(f"the table has no column {name!r}; it has {known}")
        return self.columns[name]

    def chosen(self, numbers: np.ndarray) -> TableRows:
        """Some of the rows, by number."""
        columns = {name: column[numbers] for name, column in self.columns.items()}
        return TableRows(columns, self.embedding[numbers], self.sources)


def read_table_rows(table: DataFrame | TableRows | AnyPath) -> TableRows:
    """A table of embeddings, of scenes or of frames.

    Args:
        table: path of a ``.parquet`` or ``.npz`` table or of a dataset folder, as ``serab-byols embed``
            writes them; or a DataFrame with a column ``embedding``, or with a column for each of its numbers
            (``byols_0``, ``embedding_0`` or ``0``, ...), as ``to_frame`` makes it. Levels of its index that
            have names are columns too.

    Raises:
        InvalidInputError: it cannot be read, has no rows or no embeddings, or some that are not finite.
        MissingExtraError: Parquet without pyarrow.
    """
    if isinstance(table, TableRows):
        return table
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(table, pandas.DataFrame):
        return _checked("the DataFrame", _frame_columns(table), ())
    path = as_path(table, "the table")
    files = tuple(files_of_table(path))
    try:
        read = _read_npz if path.suffix.lower() == ".npz" else _read_parquet
        columns = read(files)
    except (InvalidInputError, MissingExtraError):
        raise
    except Exception as error:  # pyarrow and zipfile raise many kinds
        raise InvalidInputError(f"the table {path} cannot be read: {error}") from error
    return _checked(str(path), columns, files)


def _read_parquet(files: Sequence[Path]) -> dict[str, Any]:
    arrow, parquet = pyarrow_packages()
    tables = [parquet.read_table(file, partitioning=None) for file in files]
    table = arrow.concat_tables(tables)
    columns: dict[str, Any] = {}
    for name in table.column_names:
        if name == EMBEDDING:
            columns[name] = _arrow_vectors(table[name])
        elif not name.startswith("__index_level_"):
            columns[name] = table[name].to_pylist()
    return columns


def _arrow_vectors(column: Any) -> np.ndarray:
    """A column of lists as (n, D)."""
    if column.null_count:
        raise InvalidInputError(f"{column.null_count} embeddings are missing")
    parts = []
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        if len(chunk):
            lengths = {len(vector) for vector in chunk}
            if len(lengths) > 1:
                raise InvalidInputError(f"embeddings have {len(lengths)} different sizes")
            parts.append(values.reshape(len(chunk), -1))
    return np.concatenate(parts) if parts else np.empty((0, 0))


def _read_npz(files: Sequence[Path]) -> dict[str, Any]:
    (path,) = files
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not an .npz file")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "metadata"}


def _frame_columns(table: DataFrame) -> dict[str, Any]:
    named = [name for name in table.index.names if name is not None]
    if named:
        table = table.reset_index(named)
    if EMBEDDING in table:
        vectors = table[EMBEDDING].tolist()
        numbered: list[Any] = []
    else:
        numbered = [name for name in table.columns if _NUMBERED.fullmatch(str(name))]
        vectors = table[numbered].to_numpy() if numbered else None
    columns = {
        str(name): table[name].tolist() for name in table.columns if name not in (*numbered, EMBEDDING)
    }
    return columns if vectors is None else {**columns, EMBEDDING: vectors}


def _checked(name: str, columns: dict[str, Any], sources: tuple[Path, ...]) -> TableRows:
    if EMBEDDING not in columns:
        raise InvalidInputError(f"{name} has no column 'embedding'; it has {', '.join(columns) or 'none'}")
    try:
        stored = np.asarray(columns.pop(EMBEDDING))
        embedding = stored.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name}: the embeddings are not vectors of one size: {error}") from error
    if stored.dtype == np.int8 and SCALE in columns:
        embedding = scaled(embedding, np.asarray(columns.pop(SCALE), dtype=np.float32))
    if embedding.ndim != 2 or embedding.size == 0:
        raise InvalidInputError(
            f"{name}: embeddings must be vectors of one size, got shape {embedding.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(bad):
        raise InvalidInputError(f"{name}: {len(bad)} embeddings are not finite, the first in row {bad[0]}")
    kept = {key: _as_column(values) for key, values in columns.items()}
    odd = [key for key, values in kept.items() if len(values) != len(embedding)]
    if odd:
        raise InvalidInputError(f"{name}: the column {odd[0]!r} has another length than the embeddings")
    return TableRows(kept, embedding, sources)


def _as_column(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Numbers as an array of numbers, durations as seconds, all else as text, empty where it is missing."""
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    values = [value.total_seconds() if hasattr(value, "total_seconds") else value for value in values]
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        return np.array([math.nan if value is None else value for value in values])
    text = np.empty(len(values), dtype=object)
    text[:] = [_text(value) for value in values]
    return text


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return str(value)
