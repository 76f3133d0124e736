"""Tables of embeddings on disk: Parquet and NumPy's npz, written in blocks of rows; tables of errors."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from serab_byols.atomic_write import atomic_write
from serab_byols.corpus.record import Record
from serab_byols.errors import InvalidInputError, missing_extra

METADATA_KEY = "serab_byols"
_ROW_GROUP_BYTES = 32 << 20


class TableWriter(ABC):
    """Collects records into blocks of columns, which subclasses write."""

    def __init__(self, embedding_size: int, timestamps: bool, metadata: dict[str, Any]) -> None:
        self.embedding_size = embedding_size
        self.timestamps = timestamps
        self.metadata = json.dumps(metadata, sort_keys=True)
        self.n_rows = 0
        self._pending: list[dict[str, Any]] = []
        self._n_pending = 0

    def add(self, record: Record) -> None:
        """Append the row or rows of a record."""
        embedding = np.atleast_2d(record.embedding)
        n_rows = len(embedding)
        columns: dict[str, Any] = {
            "file": [record.file] * n_rows,
            "start": np.atleast_1d(record.start),
            "end": np.atleast_1d(record.end),
            "embedding": embedding,
        }
        if self.timestamps:
            columns["time"] = record.time
        self._pending.append(columns)
        self._n_pending += n_rows
        self.n_rows += n_rows
        if self._n_pending * self.embedding_size * 4 >= _ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the pending rows and close the file."""
        self._flush()
        self.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        names = ["file", "start", "end", *(["time"] if self.timestamps else []), "embedding"]
        block = {
            name: [file for columns in self._pending for file in columns["file"]]
            if name == "file"
            else np.concatenate([columns[name] for columns in self._pending])
            for name in names
        }
        self._pending, self._n_pending = [], 0
        self.write(block)

    @abstractmethod
    def write(self, block: dict[str, Any]) -> None:
        """Write a block of rows: ``file`` is a list of str, the rest are arrays."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    @abstractmethod
    def release(self) -> None:
        """Close open files, finished or not."""


class ParquetWriter(TableWriter):
    """Columns file, start, end, (time,) embedding as fixed-size list of float32."""

    def __init__(self, path: Path, embedding_size: int, timestamps: bool, metadata: dict[str, Any]) -> None:
        super().__init__(embedding_size, timestamps, metadata)
        self._arrow, parquet = _pyarrow()
        pa = self._arrow
        fields = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
        if self.timestamps:
            fields.append(("time", pa.float64()))
        fields.append(("embedding", pa.list_(pa.float32(), self.embedding_size)))
        self._schema = pa.schema(fields, metadata={METADATA_KEY: self.metadata})
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, block: dict[str, Any]) -> None:
        values = self._arrow.array(np.ascontiguousarray(block["embedding"]).ravel())
        block["embedding"] = self._arrow.FixedSizeListArray.from_arrays(values, self.embedding_size)
        self._writer.write_table(self._arrow.table(block, schema=self._schema))

    def close(self) -> None:
        self._writer.close()

    def release(self) -> None:
        self._writer.close()


class NpzWriter(TableWriter):
    """The same columns as arrays, and the metadata as a JSON string under ``metadata``.

    Embeddings are spooled to a temporary file beside the output, since the header of an ``.npy`` file states
    their number.
    """

    def __init__(self, path: Path, embedding_size: int, timestamps: bool, metadata: dict[str, Any]) -> None:
        super().__init__(embedding_size, timestamps, metadata)
        self._path = path
        self._files: list[str] = []
        self._columns: dict[str, list[np.ndarray]] = {}
        self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by release()

    def write(self, block: dict[str, Any]) -> None:
        self._files += block.pop("file")
        self._spool.write(np.ascontiguousarray(block.pop("embedding"), dtype="<f4").data)
        for name, values in block.items():
            self._columns.setdefault(name, []).append(values)

    def close(self) -> None:
        with zipfile.ZipFile(self._path, "w", allowZip64=True) as archive:
            _write_npy(archive, "file", np.array(self._files, dtype=np.str_))
            for name, blocks in self._columns.items():
                _write_npy(archive, name, np.concatenate(blocks))
            _write_npy(archive, "metadata", np.array(self.metadata))
            self._spool.seek(0)
            header = {
                "descr": "<f4",
                "fortran_order": False,
                "shape": (self.n_rows, self.embedding_size),
            }
            with archive.open("embedding.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(self._spool, member, 1 << 20)

    def release(self) -> None:
        self._spool.close()


def _write_npy(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    member: IO[bytes]
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


WRITERS: dict[str, Callable[[Path, int, bool, dict[str, Any]], TableWriter]] = {
    ".parquet": ParquetWriter,
    ".npz": NpzWriter,
}


def check_output(path: Path) -> None:
    """Check before embedding that a table can be written to ``path``.

    Raises:
        InvalidInputError: an unknown suffix, no such folder, or a folder of that name.
        MissingExtraError: Parquet without pyarrow.
    """
    if path.suffix not in WRITERS:
        raise InvalidInputError(f"the output must end in {' or '.join(WRITERS)}, got {path.name!r}")
    if path.is_dir():
        raise InvalidInputError(f"the output {path} is a folder")
    if not path.parent.is_dir():
        raise InvalidInputError(f"the output's folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise InvalidInputError(f"the output's folder {path.parent} cannot be written to")
    if path.suffix == ".parquet":
        _pyarrow()


@contextmanager
def open_table(
    path: Path, *, embedding_size: int, timestamps: bool, metadata: dict[str, Any]
) -> Iterator[TableWriter]:
    """A writer for ``path`` by its suffix; the file appears when the block ends without an error.

    Args:
        path: ends in ``.parquet`` or ``.npz``.
        embedding_size: D.
        timestamps: rows are frames, with a ``time`` column.
        metadata: JSON-serialisable facts about the model, kept with the table.
    """
    check_output(path)
    with atomic_write(path) as scratch:
        writer = WRITERS[path.suffix](scratch, embedding_size, timestamps, metadata)
        try:
            yield writer
            writer.finish()
        finally:
            writer.release()


def write_error_table(path: Path, errors: Sequence[tuple[str, str]]) -> None:
    """Write a CSV file of (file, error) rows; without any, remove the one of an earlier run."""
    if not errors:
        path.unlink(missing_ok=True)
        return
    with (
        atomic_write(path) as scratch,
        scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("file", "error"))
        writer.writerows((_no_formula(name), _no_formula(error)) for name, error in errors)


def _no_formula(cell: str) -> str:
    """Spreadsheets would run a cell that begins like a formula; a quote before it makes it text."""
    return f"'{cell}" if cell.startswith(("=", "+", "@", "\t", "\r")) else cell


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "writing .parquet") from error
    return pyarrow, pyarrow.parquet
