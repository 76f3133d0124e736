"""The table of labelled clips that a probe is made of: a CSV file, read and checked."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serab_byols.corpus.segments import Segment, find_segments
from serab_byols.errors import InvalidInputError

REQUIRED_COLUMNS = ("path", "label")
OPTIONAL_COLUMNS = ("fold", "group", "split")

SPLIT_PARTS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
"""Names of the parts of a fixed split, as people write them, and what they mean here."""


@dataclass(frozen=True)
class Task:
    """Clips and what is to be told of them; a column that the manifest lacks, or leaves empty, is None.

    Attributes:
        name: from the column ``task``, else the manifest's name.
        segments: the N clips.
        labels: N of them.
        fold, group: N names each.
        split: ``"train"``, ``"valid"`` or ``"test"``, N times.
    """

    name: str
    segments: tuple[Segment, ...]
    labels: tuple[str, ...]
    fold: tuple[str, ...] | None = None
    group: tuple[str, ...] | None = None
    split: tuple[str, ...] | None = None

    def without(self, unwanted: Collection[Segment]) -> Task:
        """The task without some of its clips."""
        kept = [i for i, segment in enumerate(self.segments) if segment not in unwanted]

        def at(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[i] for i in kept)

        return Task(
            self.name,
            tuple(self.segments[i] for i in kept),
            tuple(self.labels[i] for i in kept),
            at(self.fold),
            at(self.group),
            at(self.split),
        )


def read_manifest(path: str | os.PathLike[str], tasks: Sequence[str] = ()) -> list[Task]:
    """Read a CSV file with a header and a row for every clip.

    Args:
        path: ends in ``.csv``. Columns are ``path`` (relative to this file's folder, or absolute) and
            ``label``; optionally ``start`` and ``end`` in seconds, ``fold``, ``group``, ``split``
            (train, valid, test) and ``task``. Others are ignored.
        tasks: names of the tasks that are wanted; by default all, in the order they appear.

    Returns:
        A task for every name in the column ``task``; one in all if there is no such column.

    Raises:
        InvalidInputError: not readable, a column or a label is missing, a clip is listed twice in a
            task, a column is filled for some clips of a task only, an unknown part or task. Audio
            is not looked at.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise InvalidInputError(f"a manifest is a CSV file whose name ends in .csv, got {path.name!r}")
    segments = find_segments([str(path)])
    rows = _read_rows(path)
    if not rows:
        raise InvalidInputError(f"{path} lists no clips")
    by_task: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        name = row.get("task", path.stem)
        if not name:
            raise InvalidInputError(f"{path}, row {i + 1}: the task is empty")
        by_task.setdefault(name, []).append(i)
    unknown = [name for name in tasks if name not in by_task]
    if unknown:
        raise InvalidInputError(f"{path} has no task {unknown[0]!r}; it has {', '.join(by_task)}")
    chosen = dict.fromkeys(tasks) or by_task
    return [_task(path, name, by_task[name], rows, segments) for name in chosen]


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Cells without the blanks around them; a row too short has empty ones."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            missing = [name for name in REQUIRED_COLUMNS if name not in columns]
            if missing:
                raise InvalidInputError(
                    f"{path} needs the columns {' and '.join(REQUIRED_COLUMNS)}; "
                    f"{' and '.join(missing)} is missing from {', '.join(columns)}"
                )
            return [{name: (row[name] or "").strip() for name in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"the manifest {path} cannot be read: {error}") from error


def _task(
    path: Path, name: str, rows_of_task: list[int], rows: list[dict[str, str]], segments: list[Segment]
) -> Task:
    empty = [i + 1 for i in rows_of_task if not rows[i]["label"]]
    if empty:
        raise InvalidInputError(f"{path}: the label is empty in row {_some(empty)}")
    clips = tuple(segments[i] for i in rows_of_task)
    twice = [clip.file for clip, count in Counter(clips).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"{path}: task {name!r} lists clips twice, so that they could be in training and test: "
            f"{_some(twice)}"
        )
    columns = {
        column: _column(path, name, column, [(i + 1, rows[i].get(column, "")) for i in rows_of_task])
        for column in OPTIONAL_COLUMNS
    }
    split = columns.pop("split")
    return Task(
        name,
        clips,
        tuple(rows[i]["label"] for i in rows_of_task),
        split=None if split is None else tuple(_split_parts(path, split)),
        **columns,
    )


def _column(path: Path, task: str, column: str, cells: list[tuple[int, str]]) -> tuple[str, ...] | None:
    empty = [row for row, value in cells if not value]
    if len(empty) == len(cells):
        return None
    if empty:
        raise InvalidInputError(
            f"{path}: the column {column!r} must be filled for all clips of task {task!r} or for none; "
            f"it is empty in row {_some(empty)}"
        )
    return tuple(value for _, value in cells)


def _split_parts(path: Path, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name.lower() not in SPLIT_PARTS:
            raise InvalidInputError(f"{path}: a split is train, valid or test, got {name!r}")
        yield SPLIT_PARTS[name.lower()]


def _some(items: Sequence[object], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def in_order(names: Collection[str]) -> list[str]:
    """Distinct names, by number if all of them are whole numbers, else by letters."""
    distinct = set(names)
    if all(name.isascii() and name.isdigit() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def encoded(names: Sequence[str]) -> np.ndarray:
    """Names as numbers, int64 (N,): positions in :func:`in_order`."""
    position = {name: i for i, name in enumerate(in_order(names))}
    return np.array([position[name] for name in names], dtype=np.int64)
