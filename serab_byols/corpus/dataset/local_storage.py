"""A dataset in a folder of the file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from serab_byols.atomic_write import atomic_write
from serab_byols.corpus.dataset.storage import RUN_FOLDER
from serab_byols.errors import InvalidInputError


class LocalStorage:
    """A folder of this machine, or of a file system that several share."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.location = os.path.abspath(folder)
        self._folder = Path(self.location)
        self._scratch = self._folder / RUN_FOLDER / "scratch"

    def names(self, folder: str = "") -> Iterator[str]:
        with suppress(FileNotFoundError), os.scandir(self._folder / folder) as entries:
            for entry in entries:
                if entry.is_file():
                    yield entry.name

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        path = self._folder / name
        for folder in (path.parent, self._scratch):
            folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, self._scratch) as scratch:
            yield scratch

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        path = self._folder / name
        if not path.is_file():
            raise FileNotFoundError(path)
        yield path

    def opened(self, name: str) -> BinaryIO:
        return (self._folder / name).open("rb")

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """By a lock of the operating system, which ends with the process however that ends."""
        run_folder = self._folder / RUN_FOLDER
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InvalidInputError(
                f"another run is writing to {self.location}: wait until it ends, or choose another folder"
            ) from None
        try:
            shutil.rmtree(self._scratch, ignore_errors=True)  # what a killed run left
            yield
        finally:
            lock.release()

    def contains(self, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.location))
