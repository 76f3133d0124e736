"""Paths as people give them."""

from __future__ import annotations

import os
from pathlib import Path

from serab_byols.errors import InvalidInputError

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def suffix_of(path: AnyPath) -> str:
    """The suffix of a file's name in lower case, with its dot; empty if there is none."""
    return os.path.splitext(os.fsdecode(path))[1].lower()


def as_path(path: AnyPath, what: str) -> Path:
    """The path as :class:`~pathlib.Path`; see :func:`path_text`."""
    return Path(path_text(path, what))


def path_text(path: AnyPath, what: str) -> str:
    """The path as text, unchanged; bytes are decoded as the file system's names are.

    Args:
        path: text, bytes or an object that stands for a path.
        what: what the path is of, for the error.

    Raises:
        InvalidInputError: another type.
    """
    try:
        return os.fsdecode(path)
    except TypeError:
        raise InvalidInputError(f"{what} must be a path, got {type(path).__name__}") from None
