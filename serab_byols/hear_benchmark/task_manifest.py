"""A CSV file of labelled clips or events, read as what a HEAR task is made of."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serab_byols.corpus.lists import read_list
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.event_scores import MS_PER_S, Event

SPLIT_NAMES = {
    **{"train": "train", "training": "train", "test": "test"},
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
}
"""As people write them, and as HEAR does."""


@dataclass
class SourceClip:
    """A clip to be a file of a task.

    Attributes:
        segment: where its audio is.
        labels: of a scene, without repetition.
        events: with times from the beginning of the file.
        columns: what the manifest has of ``fold``, ``split`` and ``group``.
    """

    segment: Segment
    labels: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)


def read_task_manifest(
    path: str | os.PathLike[str], events: bool = False, only_task: str | None = None
) -> list[SourceClip]:
    """Read a CSV file with a header.

    Args:
        path: of it. Columns are ``path`` (relative to this file's folder, or absolute) and ``label``;
            optionally ``start`` and ``end`` in seconds, ``fold``, ``split`` (train, valid, test), ``group``
            and ``task``. A clip with several labels, a file with several events, has several rows.
        events: ``start`` and ``end`` are of events in the file; else of the segment that is the clip.
        only_task: only rows with this in the column ``task``.

    Returns:
        The clips in the order of their first rows. A clip (or file) with one row whose label is empty has
        no labels (or events).

    Raises:
        InvalidInputError: not readable; a column is missing; rows of a clip contradict each other; an event
            without label, start or end. Audio files are not opened.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise InvalidInputError(f"a manifest is a CSV file whose name ends in .csv, got {path.name!r}")
    clips: dict[Segment, SourceClip] = {}
    n_tasks = set()
    for i, segment in enumerate(read_list(path), start=1):
        cells = segment.columns
        if "label" not in cells:
            raise InvalidInputError(f"{path} needs a column named 'label'; it has {', '.join(cells)}")
        n_tasks.add(cells.get("task", ""))
        if only_task is not None and cells.get("task") != only_task:
            continue
        if segment.problem:
            raise InvalidInputError(f"{path}, row {i}: {segment.problem}")
        whole = Segment(segment.file, segment.path) if events else segment
        columns = {name: cells[name] for name in ("fold", "split", "group") if cells.get(name)}
        clip = clips.setdefault(whole, SourceClip(whole, columns=columns))
        if clip.columns != columns:
            raise InvalidInputError(
                f"{path}, row {i}: {segment.file} has another fold, split or group before"
            )
        _add(clip, segment, cells["label"], events, f"{path}, row {i}")
    if not clips:
        of_task = (
            "" if only_task is None else f" of the task {only_task!r}; it has {', '.join(sorted(n_tasks))}"
        )
        raise InvalidInputError(f"{path} lists no clips{of_task}")
    if only_task is None and len(n_tasks) > 1:
        raise InvalidInputError(f"{path} has several tasks ({', '.join(sorted(n_tasks))}): choose one")
    _check_columns(path, list(clips.values()))
    return list(clips.values())


def _add(clip: SourceClip, segment: Segment, label: str, events: bool, where: str) -> None:
    if not events:
        if label in clip.labels:
            raise InvalidInputError(f"{where}: {segment.file} has the label {label!r} before")
        clip.labels += [label] if label else []
        return
    start_s, end_s = segment.start_s, segment.end_s
    if not label and start_s is None and end_s is None:
        return
    if not label or start_s is None or end_s is None:
        raise InvalidInputError(f"{where}: an event needs a label, a start and an end")
    if not 0 <= start_s < end_s < math.inf:
        raise InvalidInputError(f"{where}: an event from {start_s:g} to {end_s:g} s")
    clip.events.append(Event(label, start_s * MS_PER_S, end_s * MS_PER_S))


def _check_columns(path: Path, clips: Sequence[SourceClip]) -> None:
    for name in ("fold", "split", "group"):
        n_filled = sum(name in clip.columns for clip in clips)
        if 0 < n_filled < len(clips):
            raise InvalidInputError(
                f"{path}: the column {name!r} must be filled for all clips or for none; it is for {n_filled} "
                f"of {len(clips)}"
            )
    for clip in clips:
        split = clip.columns.get("split")
        if split is not None and split.lower() not in SPLIT_NAMES:
            raise InvalidInputError(f"{path}: a split is train, valid or test, got {split!r}")


READ_AS_MISSING = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
    | {"NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)


def check_labels(labels: Collection[str]) -> None:
    """Refuse labels that HEAR's kit would read as others, since it reads their list with pandas.

    Raises:
        InvalidInputError: it reads one of them as missing, or as a number or truth value with another name.
    """
    missing = sorted(READ_AS_MISSING.intersection(labels))
    changed = next((label for label in sorted(labels) if _read_back(label, labels) != label), None)
    if missing or changed:
        label, as_what = (
            (missing[0], "missing") if missing else (changed, repr(_read_back(str(changed), labels)))
        )
        raise InvalidInputError(f"HEAR's kit would read the label {label!r} as {as_what}: rename it")


def _read_back(label: str, labels: Collection[str]) -> str:
    """The label as text, after a column of all of them was read as integers, numbers or truth values."""
    for read in (int, float, _truth):
        try:
            values: Mapping[str, object] = {name: read(name) for name in labels}
        except ValueError:
            continue
        return str(values[label])
    return label


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def file_names(clips: Sequence[SourceClip]) -> list[str]:
    """A name of a WAV file for each clip: its file's name, or its path where names repeat, and its segment.

    Raises:
        InvalidInputError: two clips would have the same name.
    """
    stems = [Path(clip.segment.file).stem for clip in clips]
    n_files = {stem: set() for stem in stems}  # type: dict[str, set[str]]
    for stem, clip in zip(stems, clips):
        n_files[stem].add(clip.segment.file)
    if any(len(files) > 1 for files in n_files.values()):
        stems = ["-".join(_parts(clip.segment.file)) for clip in clips]
    names = [stem + _times(clip.segment) + ".wav" for stem, clip in zip(stems, clips)]
    doubled = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    if doubled:
        raise InvalidInputError(f"several clips would be named {doubled[0]}: rename their files")
    return names


def _parts(file: str) -> list[str]:
    """Of a path's parts those that can be in a file's name."""
    return [part for part in Path(file).with_suffix("").parts if part.strip("./\\")]


def _times(segment: Segment) -> str:
    if segment.start_s is None and segment.end_s is None:
        return ""
    return f"-{(segment.start_s or 0) * MS_PER_S:.0f}" + (
        "" if segment.end_s is None else f"-{segment.end_s * MS_PER_S:.0f}"
    )
