"""How embeddings are stored: in fewer dimensions, and in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serab_byols.corpus.pca import Pca
from serab_byols.errors import InvalidInputError

EMBEDDING_DTYPES = ("float32", "float16", "int8")
_LARGEST_INT8 = 127


@dataclass(frozen=True)
class VectorFormat:
    """From embeddings to what is stored.

    Attributes:
        size: of the model's embeddings.
        dtype: ``"float32"``, ``"float16"`` or ``"int8"``: whole numbers from -127 to 127, with a float32
            ``scale`` for each vector by which they are to be multiplied.
        pca: principal components to store instead of all dimensions.
    """

    size: int
    dtype: str = "float32"
    pca: Pca | None = None

    @property
    def stored_size(self) -> int:
        """Numbers in a stored vector."""
        return self.size if self.pca is None else len(self.pca.components)

    @property
    def has_scale(self) -> bool:
        """Whether a scale is stored with each vector."""
        return self.dtype == "int8"

    def store(self, embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float32 (n, D) as (n, N) of the format's type, and their scales float32 (n,).

        Raises:
            InvalidInputError: a value is too large for float16.
        """
        vectors = embedding if self.pca is None else self.pca(embedding)
        if self.has_scale:
            scale = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-30)) / np.float32(_LARGEST_INT8)
            return np.rint(vectors / scale[:, None]).astype(np.int8), scale
        with np.errstate(over="ignore"):
            stored = vectors.astype(self.dtype, copy=False)
        if not np.isfinite(stored).all():
            raise InvalidInputError(
                f"an embedding has values up to {np.abs(vectors).max():g}, more than {self.dtype} holds: "
                "store float32"
            )
        return stored, np.ones(len(stored), np.float32)
