"""Embeddings as points of a plane: principal components, or UMAP."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from serab_byols.errors import InvalidInputError, missing_extra

METHODS = ("auto", "pca", "umap")
_N_COMPONENTS_FOR_UMAP = 50
_N_NEIGHBOURS = 15
_FEWEST_FOR_UMAP = 2 * _N_NEIGHBOURS
_BLOCK_ROWS = 4096


class Projection(NamedTuple):
    """Points of a map.

    Attributes:
        points: float32 (n, 2).
        labels: of the two axes.
        method: ``"pca"`` or ``"umap"``.
    """

    points: np.ndarray
    labels: tuple[str, str]
    method: str


def has_umap() -> bool:
    """Whether umap-learn imports."""
    try:
        import umap  # noqa: F401
    except ImportError:
        return False
    return True


def project(embedding: np.ndarray, method: str = "auto", *, seed: int = 0) -> Projection:
    """A map of embeddings, in which those of small cosine distance lie close together.

    Embeddings are scaled to length one, so that distances between them go with cosine similarity. ``"pca"``
    gives the two principal components. ``"umap"`` (McInnes et al., arXiv 1802.03426) keeps the 15 nearest
    neighbours in the first 50 components together, and needs the extra ``umap``; of fewer than 30 embeddings
    it is no use, and principal components are given.

    Args:
        embedding: (n, D), finite.
        method: ``"pca"``, ``"umap"``, or ``"auto"``: UMAP if it is installed.
        seed: of UMAP.

    Raises:
        InvalidInputError: another method.
        MissingExtraError: UMAP is asked for and not installed.
    """
    if method not in METHODS:
        raise InvalidInputError(f"unknown map {method!r}; choose from {', '.join(METHODS)}")
    if method == "umap" and not has_umap():
        raise missing_extra("umap-learn", "umap", "a map by UMAP")
    is_umap = method != "pca" and len(embedding) >= _FEWEST_FOR_UMAP and has_umap()
    scores, shares = principal_components(unit_length(embedding), _N_COMPONENTS_FOR_UMAP if is_umap else 2)
    if is_umap:
        return Projection(_umap(scores, seed), ("UMAP 1", "UMAP 2"), "umap")
    first, second = (f"component {i} ({share:.0%} of variance)" for i, share in enumerate(shares, start=1))
    return Projection(scores, (first, second), "pca")


def unit_length(embedding: np.ndarray) -> np.ndarray:
    """Embeddings (n, D) scaled to length one, float32; zeros stay zeros."""
    lengths = np.linalg.norm(embedding, axis=1, keepdims=True)
    return (embedding / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)


def principal_components(vectors: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, n_components), float32, and each component's share of the variance (n_components,).

    Signs are such that a component's largest weight is positive. Components that there are not are zero.
    """
    n_components_there = min(n_components, vectors.shape[1])
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
    for first in range(0, len(vectors), _BLOCK_ROWS):
        centred = vectors[first : first + _BLOCK_ROWS] - mean
        covariance += centred.T @ centred
    variances, weights = np.linalg.eigh(covariance)
    weights = weights[:, ::-1][:, :n_components_there]
    weights = weights * np.sign(weights[np.abs(weights).argmax(axis=0), np.arange(n_components_there)])
    scores = np.zeros((len(vectors), n_components), np.float32)
    scores[:, :n_components_there] = vectors @ weights - mean @ weights
    shares = np.zeros(n_components)
    total = variances.sum()
    if total > 0:
        shares[:n_components_there] = np.maximum(variances[::-1][:n_components_there], 0) / total
    return scores, shares


def _umap(scores: np.ndarray, seed: int) -> np.ndarray:
    import umap

    # Several threads would make the map another one every time.
    reducer = umap.UMAP(n_neighbors=_N_NEIGHBOURS, random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(scores), np.float32)
