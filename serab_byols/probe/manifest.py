"""The manifest of a probe, a CSV file of labelled clips: read, checked and grouped into tasks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serab_byols.corpus.lists import read_list
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.paths import as_path

SPLIT_COLUMNS = ("fold", "group", "split")
"""Optional; the first of them that a task has decides how it is split."""

_PARTS = {
    **{"train": "train", "training": "train", "test": "test"},
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
}
"""Names of the parts of a fixed split, as people write them, and their names here."""


@dataclass(frozen=True)
class Task:
    """Labelled clips.

    Attributes:
        name: from the column ``task``, else the manifest's name.
        segments: the N clips.
        labels: N of them.
        columns: ``"fold"``, ``"group"`` and ``"split"``, those that the task has: N values each. The
            values of ``"split"`` are ``"train"``, ``"valid"`` and ``"test"``.
    """

    name: str
    segments: tuple[Segment, ...]
    labels: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, unwanted: Collection[Segment]) -> Task:
        """The task without some of its clips."""
        kept = [i for i, segment in enumerate(self.segments) if segment not in unwanted]
        return Task(
            self.name,
            tuple(self.segments[i] for i in kept),
            tuple(self.labels[i] for i in kept),
            {name: tuple(values[i] for i in kept) for name, values in self.columns.items()},
        )


class _Row(NamedTuple):
    number: int
    segment: Segment
    cells: Mapping[str, str]


def read_manifest(path: str | os.PathLike[str], tasks: Sequence[str] = ()) -> list[Task]:
    """Read a CSV file with a header and one row per clip.

    Args:
        path: ends in ``.csv``. Columns are ``path`` (relative to this file's folder, or absolute) and
            ``label``; optionally ``start`` and ``end`` in seconds, ``fold``, ``group``, ``split``
            (train, valid, test) and ``task``. Others are ignored.
        tasks: names of the tasks to read; by default all, in the order they appear.

    Returns:
        One task for each name in the column ``task``; a single one if there is no such column.

    Raises:
        InvalidInputError: not readable, a column or a label is missing, a clip is listed twice in a
            task, a column is filled for only some clips of a task, an unknown split or task. Audio
            files are not opened.
    """
    if hasattr(path, "to_csv"):
        raise InvalidInputError(
            f"a manifest is the path of a CSV file, got {type(path).__name__}: write it to one with to_csv"
        )
    path = as_path(path, "a manifest")
    if path.suffix.lower() != ".csv":
        raise InvalidInputError(f"a manifest is a CSV file whose name ends in .csv, got {path.name!r}")
    by_task: dict[str, list[_Row]] = {}
    for i, segment in enumerate(read_list(path), start=1):
        cells = segment.columns
        if "label" not in cells:
            raise InvalidInputError(
                f"{path} needs a column named 'label'; it has {', '.join(['path', *cells])}"
            )
        name = cells.get("task", path.stem)
        if not name:
            raise InvalidInputError(f"{path}, row {i}: the task is empty")
        by_task.setdefault(name, []).append(_Row(i, segment, cells))
    if not by_task:
        raise InvalidInputError(f"{path} lists no clips")
    unknown = [name for name in tasks if name not in by_task]
    if unknown:
        raise InvalidInputError(f"{path} has no task {unknown[0]!r}; it has {', '.join(by_task)}")
    return [_task(path, name, by_task[name]) for name in dict.fromkeys(tasks) or by_task]


def _task(path: Path, name: str, rows: list[_Row]) -> Task:
    unlabelled = _rows_without("label", rows)
    if unlabelled:
        raise InvalidInputError(f"{path}: the label is empty in row {_some(unlabelled)}")
    segments = tuple(row.segment for row in rows)
    repeated = [segment.file for segment, count in Counter(segments).items() if count > 1]
    if repeated:
        raise InvalidInputError(
            f"{path}: task {name!r} lists clips twice, so that they could be in training and test: "
            f"{_some(repeated)}"
        )
    columns = {}
    for column in SPLIT_COLUMNS:
        empty = _rows_without(column, rows)
        if not empty:
            columns[column] = tuple(row.cells[column] for row in rows)
        elif len(empty) < len(rows):
            raise InvalidInputError(
                f"{path}: the column {column!r} must be filled for all clips of task {name!r} or for none; "
                f"it is empty in row {_some(empty)}"
            )
    unknown = [part for part in columns.get("split", ()) if part.lower() not in _PARTS]
    if unknown:
        raise InvalidInputError(f"{path}: a split is train, valid or test, got {unknown[0]!r}")
    if "split" in columns:
        columns["split"] = tuple(_PARTS[part.lower()] for part in columns["split"])
    return Task(name, segments, tuple(row.cells["label"] for row in rows), columns)


def _rows_without(column: str, rows: list[_Row]) -> list[int]:
    return [row.number for row in rows if not row.cells.get(column)]


def _some(items: Sequence[object], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def in_order(names: Collection[str]) -> list[str]:
    """Distinct names, sorted as numbers if all of them are whole numbers, else alphabetically."""
    distinct = set(names)
    if all(name.isascii() and name.isdigit() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def encoded(names: Sequence[str]) -> np.ndarray:
    """Names as integers, int64 (N,): positions in :func:`in_order`."""
    position = {name: i for i, name in enumerate(in_order(names))}
    return np.array([position[name] for name in names], dtype=np.int64)
