"""Inputs (files, folders, CSV lists) as segments to embed."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serab_byols.corpus.decoding import AUDIO_SUFFIXES
from serab_byols.errors import AudioFileError, InvalidInputError

COLUMNS = ("path", "start", "end")
"""What a list may say of a segment; other columns are not read."""


@dataclass(frozen=True)
class Segment:
    """An audio file, or the segment of it from ``start_s`` to ``end_s`` seconds.

    Attributes:
        file: the name as given or found, which goes into tables.
        path: where the file lies.
        problem: why it cannot be embedded, if that is known beforehand.
    """

    file: str
    path: Path
    start_s: float | None = None
    end_s: float | None = None
    problem: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise InvalidInputError(
                f"Segment takes file, path, start_s and end_s, in this order; path is {self.path!r}"
            )

    def check(self) -> None:
        """Refuse a segment that is known to be bad, or whose name no table can hold.

        Raises:
            AudioFileError: it is.
        """
        if self.problem:
            raise AudioFileError(f"{self.file or '(no name)'}: {self.problem}")
        try:
            self.file.encode("utf-8")
        except UnicodeEncodeError as error:
            raise AudioFileError(
                f"{self.file!r}: the file's name is not valid UTF-8, so no table can hold it"
            ) from error


def as_segment(item: str | os.PathLike[str] | Segment) -> Segment:
    """A path as a segment that is the whole file."""
    return item if isinstance(item, Segment) else Segment(os.fspath(item), Path(item))


def find_segments(inputs: Iterable[str]) -> list[Segment]:
    """Segments of files, folders (searched recursively, in order of name) and CSV lists.

    Raises:
        InvalidInputError: a CSV list that cannot be read or has no ``path`` column.
    """
    return [segment for item in inputs for segment in _segments_of(item)]


def _segments_of(item: str) -> Iterator[Segment]:
    path = Path(item)
    if path.is_dir():
        yield from _segments_in_folder(item)
    elif path.suffix.lower() == ".csv":
        yield from (segment for segment, _ in read_csv_list(path))
    else:
        yield Segment(item, path)


def _segments_in_folder(folder: str) -> Iterator[Segment]:
    found = False
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            # Names with a leading dot are metadata files of other systems ("._clip.wav"), not recordings.
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                found = True
                file = os.path.join(parent, name)
                yield Segment(file, Path(file))
    if not found:
        yield Segment(folder, Path(folder), problem="no audio files in this folder")


def read_csv_list(path: Path) -> Iterator[tuple[Segment, dict[str, str]]]:
    """Segments of a CSV list, each with all cells of its row by column; missing cells are empty.

    Raises:
        InvalidInputError: it cannot be read or has no ``path`` column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = _checked_columns(path, list(reader.fieldnames or ()))
            for row in reader:
                cells = {name: (row[name] or "").strip() for name in reader.fieldnames}
                yield _segment_in_row(path, row), cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"the list {path} cannot be read: {error}") from error


def _checked_columns(path: Path, names: list[str]) -> list[str]:
    """Column names in lower case without surrounding spaces; near misses of ours would be ignored."""
    columns = [name.strip().lower() for name in names]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise InvalidInputError(f"{path} has the column {repeated[0]!r} more than once")
    if "path" not in columns:
        raise InvalidInputError(f"{path} needs a column named 'path'; it has {names or 'no header'}")
    for name in columns:
        near = [ours for ours in COLUMNS if re.fullmatch(rf"{ours}[\W_]*(s|ms|sec|secs|seconds|time)?", name)]
        if near and name not in COLUMNS:
            raise InvalidInputError(
                f"{path} has the column {name!r}, which would be ignored: is it {near[0]!r} (in seconds)? "
                "Rename it, to that or to something else"
            )
    return columns


def _segment_in_row(csv_path: Path, row: dict[str, str | None]) -> Segment:
    file = row["path"] or ""
    path = csv_path.parent / file  # an absolute file stays as it is
    if not file:
        return Segment(file, path, problem=f"a row of {csv_path} has an empty path")
    try:
        start_s, end_s = _seconds(row, "start"), _seconds(row, "end")
    except ValueError as error:
        return Segment(file, path, problem=str(error))
    return Segment(file, path, start_s, end_s)


def _seconds(row: dict[str, str | None], column: str) -> float | None:
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(f"{column} is not a number of seconds: {text!r}")
    if seconds < 0 or (column == "start" and math.isinf(seconds)):
        raise ValueError(f"{column} must be a time within the file in seconds, got {text}")
    return None if math.isinf(seconds) else seconds
