"""Tables of embeddings, read block by block: Parquet and npz files, and folders of parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serab_byols.corpus.tables import METADATA_KEY, pyarrow_packages
from serab_byols.errors import InvalidInputError
from serab_byols.paths import AnyPath, as_path

_BLOCK_ROWS = 4096


class EmbeddingTable:
    """A table that ``embed`` wrote.

    Args:
        path: ends in ``.parquet`` or ``.npz``, or is the folder of a dataset.

    Attributes:
        files: that it consists of.
        metadata: what the table says of the model.

    Raises:
        InvalidInputError: missing, unreadable, or not a table of this library.
        MissingExtraError: Parquet without pyarrow.
    """

    def __init__(self, path: AnyPath) -> None:
        self._path = as_path(path, "the table")
        self.files = files_of_table(self._path)
        try:
            self.metadata = self._read_metadata()
        except InvalidInputError:
            raise
        except Exception as error:  # pyarrow and zipfile raise many kinds
            raise InvalidInputError(f"{self._path} is no table of embeddings: {error}") from error

    def blocks(self) -> Iterator[np.ndarray]:
        """Embeddings in blocks float32 (n, D), those of int8 multiplied by their scale."""
        for file in self.files:
            yield from self._npz_blocks() if file.suffix == ".npz" else _parquet_blocks(file)

    def _read_metadata(self) -> dict[str, Any]:
        if self._path.suffix == ".npz":
            with np.load(self._path, allow_pickle=False) as archive:
                return json.loads(str(archive["metadata"]))
        _, parquet = pyarrow_packages()
        return json.loads(parquet.read_schema(self.files[0]).metadata[METADATA_KEY.encode()])

    def _npz_blocks(self) -> Iterator[np.ndarray]:
        with np.load(self._path, allow_pickle=False) as archive:
            scale = archive["scale"] if "scale" in archive.files else None
            embedding = archive["embedding"]
        for first in range(0, len(embedding), _BLOCK_ROWS):
            rows = slice(first, first + _BLOCK_ROWS)
            yield scaled(embedding[rows], None if scale is None else scale[rows])


def files_of_table(path: Path) -> list[Path]:
    """The file, or the parts in the folder of a dataset.

    Raises:
        InvalidInputError: there is no such table, or it has another suffix.
    """
    if path.is_dir():
        files = sorted(path.glob("part-*.parquet"))
        if not files:
            raise InvalidInputError(f"the folder {path} is no dataset: it holds no parts of a dataset")
        return files
    if not path.is_file():
        raise InvalidInputError(f"there is no table {path}")
    if path.suffix.lower() not in (".parquet", ".npz"):
        raise InvalidInputError(
            f"{path} is no table of embeddings, which is a .parquet or .npz file or a dataset folder; "
            f"got {path.name!r}"
        )
    return [path]


def _parquet_blocks(path: Path) -> Iterator[np.ndarray]:
    _, parquet = pyarrow_packages()
    with parquet.ParquetFile(path) as file:
        columns = [name for name in ("embedding", "scale") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=columns):
            flat = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
            scale = batch["scale"].to_numpy() if "scale" in columns else None
            yield scaled(flat.reshape(len(batch), -1), scale)


def scaled(embedding: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Stored vectors (n, D) as float32, multiplied by their scales (n,) if they have some."""
    vectors = embedding.astype(np.float32, copy=False)
    return vectors if scale is None else vectors * scale[:, None]
