"""The most similar rows of a table, for every row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from serab_byols.viz.projection import unit_length
from serab_byols.viz.table_rows import TableRows

_BLOCK_VALUES = 1 << 24
"""Similarities at a time, 64 MB."""


def nearest_neighbours(table: TableRows, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of largest cosine similarity, exactly, for every row.

    Rows of the same file that overlap in time are left out, the row itself among them: frames would find only
    the frames beside them.

    Args:
        table: n rows; ``file``, ``start`` and ``end`` say what overlaps, where there are such columns.
        n_neighbours: of each row, k.

    Returns:
        Row numbers int32 (n, k), the most similar first, and similarities float32 (n, k). Where there are
        fewer rows than that: -1, and 0.
    """
    vectors = torch.from_numpy(unit_length(table.embedding))
    n_rows, k = len(vectors), min(n_neighbours, len(vectors))
    rows = np.full((n_rows, n_neighbours), -1, np.int32)
    similarities = np.zeros((n_rows, n_neighbours), np.float32)
    excluded = _overlapping(table)
    block = max(1, _BLOCK_VALUES // n_rows)
    for first in range(0, n_rows, block):
        some = vectors[first : first + block] @ vectors.T
        for row in range(len(some)):
            some[row, next(excluded)] = -torch.inf
        nearest = some.topk(k, dim=1)
        is_there = torch.isfinite(nearest.values).numpy()
        part = slice(first, first + len(some))
        rows[part, :k] = np.where(is_there, nearest.indices.numpy(), -1)
        similarities[part, :k] = np.where(is_there, nearest.values.numpy(), 0.0)
    return rows, similarities


def _overlapping(table: TableRows) -> Iterator[torch.Tensor]:
    """For every row in order, the rows of its file that overlap with it."""
    n_rows = len(table)
    files = table.columns.get("file")
    if files is None:
        yield from torch.arange(n_rows)[:, None]
        return
    start = _seconds(table, "start", 0.0)
    end = _seconds(table, "end", np.inf)
    _, codes = np.unique(files.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(codes.max() + 2))
    for row, code in enumerate(codes):
        of_file = order[bounds[code] : bounds[code + 1]]
        overlaps = (start[of_file] < end[row]) & (end[of_file] > start[row]) | (of_file == row)
        yield torch.from_numpy(of_file[overlaps])


def _seconds(table: TableRows, name: str, missing: float) -> np.ndarray:
    column = table.columns.get(name)
    if column is None or column.dtype.kind not in "iuf":
        return np.full(len(table), missing)
    return np.nan_to_num(column.astype(np.float64), nan=missing, posinf=np.inf)
