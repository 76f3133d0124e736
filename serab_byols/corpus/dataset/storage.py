"""Where a dataset lies: files that appear whole or not at all, by names relative to its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

RUN_FOLDER = "__run"
"""What is not rows: readers of Parquet folders look into no name that begins with two underscores."""


class Storage(Protocol):
    """A folder of files, local or in an object store."""

    location: str

    def names(self, folder: str = "") -> Iterator[str]:
        """Names of the files in a folder, in any order; none if it does not exist."""
        ...

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to; the file appears whole when the block ends without an error."""
        ...

    def reading(self, name: str) -> AbstractContextManager[Path]:
        """A local path to read from.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def opened(self, name: str) -> AbstractContextManager[Any]:
        """A file to read a little of, such as a footer, without fetching the rest.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs out.

        Raises:
            InvalidInputError: there is one.
        """
        ...

    def contains(self, path: str) -> bool:
        """Whether a path is inside of it."""
        ...
