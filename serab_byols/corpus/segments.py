"""Segments: what is embedded of which file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.paths import AnyPath, path_text


@dataclass(frozen=True)
class Segment:
    """An audio file, or the segment of it from ``start_s`` to ``end_s`` seconds.

    Attributes:
        file: the name as given or found, which goes into tables.
        path: where the file lies; may be a URL.
        problem: why it cannot be embedded, if that is known beforehand.
        columns: what else a list says of it, by column; carried through to tables.
    """

    file: str
    path: str | os.PathLike[str]
    start_s: float | None = None
    end_s: float | None = None
    problem: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise InvalidInputError(
                f"Segment takes file, path, start_s and end_s, in this order; path is {self.path!r}"
            )
        object.__setattr__(self, "path", os.fspath(self.path))  # once; it is frozen otherwise

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


def as_segment(item: AnyPath | Segment) -> Segment:
    """A path as a segment that is the whole file."""
    if isinstance(item, Segment):
        return item
    file = path_text(item, "a file")
    return Segment(file, file)
