"""Fewer dimensions: principal components of embeddings, fitted once and kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint.registry import CHECKPOINT_FOLDERS, COMPONENTS_SUFFIX
from serab_byols.errors import InvalidInputError
from serab_byols.paths import AnyPath, as_path

_FACTS_KEY = "serab_byols_pca"
_IDENTITY = ("weights_sha256", "normalization", "frontend")
"""Embeddings that differ in these have other components."""


@dataclass(frozen=True, eq=False)
class Pca:
    """A projection onto the directions in which embeddings vary most.

    The components are nested: the first 64 numbers of a projection to 128 are the projection to 64.

    Attributes:
        mean: float32 (D,).
        components: float32 (N, D), orthonormal rows, in order of variance.
        explained: share of the variance in each, float64 (N,).
        facts: of the model whose embeddings were fitted, JSON-serialisable.
    """

    mean: np.ndarray
    components: np.ndarray
    explained: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def __call__(self, embedding: np.ndarray) -> np.ndarray:
        """Embeddings float32 (..., D) as float32 (..., N)."""
        return (embedding - self.mean) @ self.components.T

    def first(self, n: int) -> Pca:
        """Its first ``n`` components.

        Raises:
            InvalidInputError: there are not as many.
        """
        if not 1 <= n <= len(self.components):
            raise InvalidInputError(f"dimensions must be from 1 to {len(self.components)}, got {n}")
        return Pca(self.mean, self.components[:n], self.explained[:n], self.facts)

    def describe(self) -> dict[str, Any]:
        """What identifies it in the tables it made: JSON-serialisable."""
        digest = hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()
        return {"dimensions": len(self.components), "sha256": digest}

    def check_fits(self, described_model: dict[str, Any]) -> None:
        """Refuse a model other than the one whose embeddings were fitted.

        Raises:
            InvalidInputError: what differs.
        """
        for name in _IDENTITY:
            if self.facts.get(name) != described_model.get(name):
                raise InvalidInputError(
                    f"these principal components belong to other embeddings: {name} is "
                    f"{self.facts.get(name)!r} there and {described_model.get(name)!r} here"
                )


def fit_pca(blocks: Iterable[np.ndarray], n_components: int, facts: dict[str, Any] | None = None) -> Pca:
    """Principal components of embeddings that come in blocks (n, D), of which none is kept.

    Raises:
        InvalidInputError: fewer embeddings or dimensions than components.
    """
    n, total, products = 0, np.zeros(0), np.zeros((0, 0))
    for block in blocks:
        block = np.asarray(block, dtype=np.float64)
        if not n:
            total, products = np.zeros(block.shape[1]), np.zeros((block.shape[1],) * 2)
        n += len(block)
        total += block.sum(axis=0)
        products += block.T @ block
    if not 1 <= n_components <= min(n, len(total)):
        raise InvalidInputError(
            f"{n_components} components need as many embeddings and dimensions, there are {n} and "
            f"{len(total)}"
        )
    mean = total / n
    variances, directions = np.linalg.eigh(products / n - np.outer(mean, mean))
    order = np.argsort(variances)[::-1][:n_components]
    components = directions.T[order]
    # A direction and its opposite are the same component: the largest number is positive.
    components *= np.sign(components[np.arange(len(order)), np.abs(components).argmax(axis=1)])[:, None]
    explained = np.maximum(variances[order], 0) / max(np.trace(products / n - np.outer(mean, mean)), 1e-30)
    return Pca(mean.astype(np.float32), components.astype(np.float32), explained, dict(facts or {}))


def bundled_pca(described_model: dict[str, Any]) -> Pca:
    """The components that come with a checkpoint of this package.

    Raises:
        InvalidInputError: there are none for this model.
    """
    for folder in CHECKPOINT_FOLDERS:
        for path in sorted(folder.glob(f"*{COMPONENTS_SUFFIX}")):
            pca = load_pca(path)
            if all(pca.facts.get(name) == described_model.get(name) for name in _IDENTITY):
                return pca
    raise InvalidInputError(
        "there are no principal components for these weights and this normalisation: fit some with "
        "`serab-byols pca TABLE -o FILE.pca.safetensors` and pass them (--pca FILE)"
    )


def chosen_pca(pca: Pca | None, dimensions: int | None, described_model: dict[str, Any]) -> Pca | None:
    """The components to store: the given ones or the bundled ones, all or some; None for no projection.

    Raises:
        InvalidInputError: they belong to other embeddings, there are none, or not as many.
    """
    if pca is None and dimensions is None:
        return None
    if pca is None:
        pca = bundled_pca(described_model)
    pca.check_fits(described_model)
    return pca if dimensions is None else pca.first(dimensions)


def save_pca(pca: Pca, path: AnyPath) -> Path:
    """Write to a safetensors file and return its path."""
    path = as_path(path, "the output")
    with atomic_write(path) as scratch:
        save_file(
            {"mean": pca.mean, "components": pca.components, "explained": pca.explained},
            scratch,
            metadata={_FACTS_KEY: json.dumps(pca.facts, sort_keys=True)},
        )
    return path


def load_pca(path: AnyPath) -> Pca:
    """Read a file of :func:`save_pca`.

    Raises:
        InvalidInputError: missing, damaged, or of something else.
    """
    path = as_path(path, "the file of principal components")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[_FACTS_KEY])
            mean, components, explained = map(file.get_tensor, ("mean", "components", "explained"))
            pca = Pca(mean, components, explained, facts)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InvalidInputError(f"{path} holds no principal components: {error}") from error
    n, size = pca.components.shape if pca.components.ndim == 2 else (0, 0)
    if not n or pca.mean.shape != (size,) or pca.explained.shape != (n,) or not isinstance(facts, dict):
        raise InvalidInputError(f"{path} is damaged: its arrays do not fit each other")
    if not all(np.isfinite(values).all() for values in (pca.mean, pca.components)):
        raise InvalidInputError(f"{path} is damaged: it holds values that are not finite")
    return pca
