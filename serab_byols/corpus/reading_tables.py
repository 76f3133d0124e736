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
        is_folder = self._path.is_dir()
        self.files = sorted(self._path.glob("part-*.parquet")) if is_folder else [self._path]
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
        if not self.files:
            raise InvalidInputError(f"{self._path} holds no parts of a dataset")
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
            yield _scaled(embedding[rows], None if scale is None else scale[rows])


def _parquet_blocks(path: Path) -> Iterator[np.ndarray]:
    _, parquet = pyarrow_packages()
    with parquet.ParquetFile(path) as file:
        columns = [name for name in ("embedding", "scale") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=columns):
            flat = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
            scale = batch["scale"].to_numpy() if "scale" in columns else None
            yield _scaled(flat.reshape(len(batch), -1), scale)


def _scaled(embedding: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    vectors = embedding.astype(np.float32, copy=False)
    return vectors if scale is None else vectors * scale[:, None]
