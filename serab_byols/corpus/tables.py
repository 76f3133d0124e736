"""Tables of embeddings on disk: Parquet and NumPy's npz, written row block by row block."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from serab_byols.atomic_write import atomic_write
from serab_byols.corpus.record import Record
from serab_byols.errors import InvalidInputError, missing_extra

METADATA_KEY = "serab_byols"
_ROW_GROUP_BYTES = 32 << 20


class Sink(ABC):
    """Collects records into columns; subclasses write them."""

    def __init__(self, embedding_size: int, timestamps: bool, metadata: dict[str, Any]) -> None:
        self.embedding_size = embedding_size
        self.timestamps = timestamps
        self.metadata = json.dumps(metadata, sort_keys=True)
        self.n_rows = 0
        self._waiting: list[dict[str, Any]] = []
        self._waiting_rows = 0

    def add(self, record: Record) -> None:
        """Take in the row or rows of a record."""
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
        self._waiting.append(columns)
        self._waiting_rows += n_rows
        self.n_rows += n_rows
        if self._waiting_rows * self.embedding_size * 4 >= _ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write what is waiting and close the file."""
        self._flush()
        self.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        names = ["file", "start", "end", *(["time"] if self.timestamps else []), "embedding"]
        block = {
            name: [file for part in self._waiting for file in part["file"]]
            if name == "file"
            else np.concatenate([part[name] for part in self._waiting])
            for name in names
        }
        self._waiting, self._waiting_rows = [], 0
        self.write(block)

    @abstractmethod
    def write(self, block: dict[str, Any]) -> None:
        """Write a block of rows: ``file`` is a list of str, the rest are arrays."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    @abstractmethod
    def release(self) -> None:
        """Let go of open files, finished or not."""


class ParquetSink(Sink):
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


class NpzSink(Sink):
    """The same columns as arrays, and the metadata as a JSON string under ``metadata``.

    Embeddings are spooled to a file beside the output, since an ``.npy`` header needs their number
    before the first of them.
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


SINKS: dict[str, Callable[[Path, int, bool, dict[str, Any]], Sink]] = {
    ".parquet": ParquetSink,
    ".npz": NpzSink,
}


def check_output(path: Path) -> None:
    """Check before embedding that a table can be written to ``path``.

    Raises:
        InvalidInputError: an ending that no sink has, no such folder, or a folder in its place.
        MissingExtraError: Parquet without pyarrow.
    """
    if path.suffix not in SINKS:
        raise InvalidInputError(f"the output must end in {' or '.join(SINKS)}, got {path.name!r}")
    if path.is_dir():
        raise InvalidInputError(f"the output {path} is a folder")
    if not path.parent.is_dir():
        raise InvalidInputError(f"the output's folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise InvalidInputError(f"the output's folder {path.parent} cannot be written to")
    if path.suffix == ".parquet":
        _pyarrow()


@contextmanager
def open_sink(
    path: Path, *, embedding_size: int, timestamps: bool, metadata: dict[str, Any]
) -> Iterator[Sink]:
    """A sink for ``path`` by its ending; the file appears when the block ends without an error.

    Args:
        path: ends in ``.parquet`` or ``.npz``.
        embedding_size: D.
        timestamps: rows are frames, with a ``time`` column.
        metadata: JSON-serialisable facts about the model, kept with the table.
    """
    check_output(path)
    with atomic_write(path) as scratch:
        sink = SINKS[path.suffix](scratch, embedding_size, timestamps, metadata)
        try:
            yield sink
            sink.finish()
        finally:
            sink.release()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "writing .parquet") from error
    return pyarrow, pyarrow.parquet
