"""The audio files of a table: where they lie, and how a browser gets them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from serab_byols.corpus.remote import is_url, without_file_scheme
from serab_byols.viz.table_rows import TableRows

BROWSER_TYPES = {
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "audio/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".wave": "audio/wav",
    ".webm": "audio/webm",
}
"""Media types of what browsers play, by suffix."""


@dataclass(frozen=True)
class ClipFiles:
    """The distinct files of a table.

    Attributes:
        names: as the table has them, in the order of their first row.
        codes: for every row, which of them.
        paths: where they lie, absolute; None for files that are not on this machine.
    """

    names: list[str]
    codes: list[int]
    paths: list[Path | None]

    @property
    def n_missing(self) -> int:
        """Files that are not there."""
        return sum(path is None or not path.is_file() for path in self.paths)


def clip_files(table: TableRows, audio_root: Path) -> ClipFiles:
    """The files of the column ``file``; relative names are below ``audio_root``.

    Raises:
        InvalidInputError: there is no such column.
    """
    number_of: dict[str, int] = {}
    codes = [number_of.setdefault(str(name), len(number_of)) for name in table.column("file")]
    return ClipFiles(list(number_of), codes, [_path(name, audio_root) for name in number_of])


def _path(name: str, audio_root: Path) -> Path | None:
    name = without_file_scheme(name)
    if not name or is_url(name) or "\0" in name:
        return None
    return Path(os.path.abspath(audio_root / name))


def page_urls(paths: Sequence[Path | None], folder: Path) -> list[str | None]:
    """URLs of files for a page that lies in ``folder``: relative, or ``file:`` on another drive."""
    return [None if path is None else _page_url(path, folder) for path in paths]


def _page_url(path: Path, folder: Path) -> str:
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive, on Windows
        return path.as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))
