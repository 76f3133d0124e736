"""Tables of embeddings on disk: Parquet and NumPy's npz, written in blocks of rows."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from serab_byols.atomic_write import atomic_write
from serab_byols.corpus.record import Record
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.errors import InvalidInputError, missing_extra

METADATA_KEY = "serab_byols"
COMPRESSIONS = ("none", "snappy", "zstd", "lz4", "gzip")
_ROW_GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class TableFormat:
    """What the rows of a table are.

    Attributes:
        vectors: how embeddings are stored.
        timestamps: rows are frames, with a column ``time``.
        metadata: JSON-serialisable facts about the model, kept with the table.
        columns: further columns, by name; values are Arrow types, None for text.
        compression: of Parquet; one of :data:`COMPRESSIONS`.
    """

    vectors: VectorFormat
    timestamps: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    compression: str = "snappy"

    @property
    def arrays(self) -> tuple[str, ...]:
        """Columns of numbers that this library makes, but for ``embedding``."""
        return (
            "start",
            "end",
            *(["time"] if self.timestamps else []),
            *(["scale"] if self.vectors.has_scale else []),
        )


class TableWriter(ABC):
    """Collects records into blocks of columns, which subclasses write."""

    def __init__(self, table_format: TableFormat) -> None:
        self.format = table_format
        self.metadata = json.dumps(dict(table_format.metadata), sort_keys=True)
        self.n_rows = 0
        self._pending: list[dict[str, Any]] = []
        self._n_pending = 0

    def add(self, record: Record, columns: Mapping[str, Any]) -> None:
        """Append the row or rows of a record, with the values of the further columns."""
        embedding, scale = self.format.vectors.store(np.atleast_2d(record.embedding))
        n_rows = len(embedding)
        block: dict[str, Any] = {
            "file": [record.file] * n_rows,
            "start": np.atleast_1d(record.start),
            "end": np.atleast_1d(record.end),
            "embedding": embedding,
            **{name: [columns.get(name)] * n_rows for name in self.format.columns},
        }
        if self.format.timestamps:
            block["time"] = record.time
        if self.format.vectors.has_scale:
            block["scale"] = scale
        self._pending.append(block)
        self._n_pending += n_rows
        self.n_rows += n_rows
        if self._n_pending * embedding[0].nbytes >= _ROW_GROUP_BYTES:
            self.flush()

    def finish(self) -> None:
        """Write the pending rows and close the file."""
        self.flush()
        self.close()

    def flush(self) -> None:
        """Write the pending rows."""
        if not self._pending:
            return
        of_arrays = [*self.format.arrays, "embedding"]
        block = {name: np.concatenate([each[name] for each in self._pending]) for name in of_arrays}
        of_lists = {
            name: [value for each in self._pending for value in each[name]]
            for name in ("file", *self.format.columns)
        }
        self._pending, self._n_pending = [], 0
        self.write({**of_lists, **block})

    @abstractmethod
    def write(self, block: dict[str, Any]) -> None:
        """Write a block of rows: times and ``embedding`` are arrays, the rest lists."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    @abstractmethod
    def release(self) -> None:
        """Close open files, finished or not."""


class ParquetWriter(TableWriter):
    """Columns file, start, end, (time,) the further ones, embedding as fixed-size list."""

    def __init__(self, path: Path, table_format: TableFormat) -> None:
        super().__init__(table_format)
        self._arrow, parquet = pyarrow_packages()
        self.schema = arrow_schema(table_format)
        self._writer = parquet.ParquetWriter(path, self.schema, compression=table_format.compression)

    def write(self, block: dict[str, Any]) -> None:
        values = self._arrow.array(np.ascontiguousarray(block["embedding"]).ravel())
        size = self.format.vectors.stored_size
        block["embedding"] = self._arrow.FixedSizeListArray.from_arrays(values, size)
        self._writer.write_table(self._arrow.table(block, schema=self.schema))

    def add_rows(self, rows: Any) -> None:
        """Append rows that are an Arrow record batch of this schema."""
        self.flush()
        self.n_rows += len(rows)
        self._writer.write_batch(rows)

    def note(self, key: str, value: str) -> None:
        """Add to the file's metadata what is known only now."""
        self._writer.add_key_value_metadata({key: value})

    def close(self) -> None:
        self._writer.close()

    def release(self) -> None:
        self._writer.close()


def arrow_schema(table_format: TableFormat) -> Any:
    """The Arrow schema of a table."""
    pa, _ = pyarrow_packages()
    vectors = table_format.vectors
    number = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[vectors.dtype]
    fields = [
        ("file", pa.string()),
        *((name, pa.float32() if name == "scale" else pa.float64()) for name in table_format.arrays),
        *((name, kind or pa.string()) for name, kind in table_format.columns.items()),
        ("embedding", pa.list_(number, vectors.stored_size)),
    ]
    metadata = {METADATA_KEY: json.dumps(dict(table_format.metadata), sort_keys=True)}
    return pa.schema(fields, metadata=metadata)


class NpzWriter(TableWriter):
    """The same columns as arrays, and the metadata as a JSON string under ``metadata``.

    Embeddings are spooled to a temporary file beside the output, since the header of an ``.npy`` file states
    their number.
    """

    def __init__(self, path: Path, table_format: TableFormat) -> None:
        super().__init__(table_format)
        if "metadata" in table_format.columns:
            raise InvalidInputError("an .npz table has a 'metadata' of its own: rename the list's column")
        self._path = path
        self._lists: dict[str, list[Any]] = {"file": [], **{name: [] for name in table_format.columns}}
        self._arrays: dict[str, list[np.ndarray]] = {}
        self._dtype = np.dtype(table_format.vectors.dtype).newbyteorder("<")
        self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by release()

    def write(self, block: dict[str, Any]) -> None:
        self._spool.write(np.ascontiguousarray(block.pop("embedding"), dtype=self._dtype).data)
        for name, values in block.items():
            if name in self._lists:
                self._lists[name] += values
            else:
                self._arrays.setdefault(name, []).append(values)

    def close(self) -> None:
        with zipfile.ZipFile(self._path, "w", allowZip64=True) as archive:
            for name, values in self._lists.items():
                _write_npy(archive, name, _as_array(name, values))
            for name, blocks in self._arrays.items():
                _write_npy(archive, name, np.concatenate(blocks))
            _write_npy(archive, "metadata", np.array(self.metadata))
            self._spool.seek(0)
            header = {
                "descr": self._dtype.str,
                "fortran_order": False,
                "shape": (self.n_rows, self.format.vectors.stored_size),
            }
            with archive.open("embedding.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(self._spool, member, 1 << 20)

    def release(self) -> None:
        self._spool.close()


def _as_array(name: str, values: list[Any]) -> np.ndarray:
    """A column as an array without objects: missing text is empty, a missing number NaN."""
    if all(value is None or isinstance(value, str) for value in values):
        return np.array([value or "" for value in values], dtype=np.str_)
    array = np.array([np.nan if value is None else value for value in values])
    if array.dtype.kind not in "biuf" or array.ndim != 1:
        raise InvalidInputError(
            f"the column {name!r} holds neither text nor numbers, which .npz cannot hold: write .parquet"
        )
    return array


def _write_npy(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    member: IO[bytes]
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


WriterT = TypeVar("WriterT", bound=TableWriter)

WRITERS: dict[str, Callable[[Path, TableFormat], TableWriter]] = {
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
        pyarrow_packages()


@contextmanager
def open_table(path: Path, table_format: TableFormat) -> Iterator[TableWriter]:
    """A writer for ``path`` by its suffix; the file appears when the block ends without an error.

    Args:
        path: ends in ``.parquet`` or ``.npz``.
        table_format: of the rows.
    """
    check_output(path)
    with atomic_write(path) as scratch, writing(WRITERS[path.suffix](scratch, table_format)) as writer:
        yield writer


@contextmanager
def writing(writer: WriterT) -> Iterator[WriterT]:
    """Finish the file when the block ends without an error, and close it in any case."""
    try:
        yield writer
        writer.finish()
    finally:
        writer.release()


def pyarrow_packages() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        MissingExtraError: they cannot be imported.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "reading and writing .parquet") from error
    return pyarrow, pyarrow.parquet
