"""Files in object stores and on servers, by URL (``s3://``, ``gs://``, ``hf://``, ...), through fsspec.

Credentials come from where each store's own tools look for them, never from here.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from serab_byols.errors import AudioFileError, InvalidInputError, MissingExtraError, missing_extra

N_TRIES = 5
FIRST_PAUSE_S = 0.5
"""Before the second try; each further pause is twice as long."""

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)
"""Trying again would not help."""

T = TypeVar("T")


def is_url(path: object) -> bool:
    """Whether a path is a URL; ``file://`` is one too."""
    return isinstance(path, str) and _URL.match(path) is not None


def without_file_scheme(path: str) -> str:
    """``file:///a/b`` as ``/a/b``; anything else as it is."""
    return path.removeprefix("file://") if path.startswith("file://") else path


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        MissingExtraError: fsspec, or its package for this kind of URL, is missing.
        InvalidInputError: there is no such kind of URL.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise missing_extra("fsspec", "cloud", f"reading and writing {url}") from error
    try:
        # Listings that are kept would hide what other processes write, and hold all names in memory.
        return url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise MissingExtraError(
            f"{url} needs a package that is not installed ({error}). For s3:// install it with: "
            "pip install 'serab-byols[cloud]'"
        ) from error
    except ValueError as error:
        raise InvalidInputError(f"{url}: {error}") from error


def persistently(action: Callable[[], T]) -> T:
    """The result of an action on a store, tried again where that may help.

    Raises:
        OSError: the last try failed, too.
    """
    pause_s = FIRST_PAUSE_S
    for i in range(N_TRIES):
        try:
            return action()
        except _FINAL:
            raise
        except Exception as error:  # what a store's package raises is of every kind
            if i == N_TRIES - 1:
                raise OSError(f"{type(error).__name__}: {error}") from error
        time.sleep(pause_s)
        pause_s *= 2
    raise AssertionError("unreachable")


class LocalCopy:
    """A local file for a path: the file itself, or a temporary copy of what a URL names.

    Args:
        path: local, or a URL.

    Attributes:
        path: of the local file.

    Raises:
        AudioFileError: it cannot be downloaded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._url = os.fspath(path)
        self.path: str | os.PathLike[str] = path
        self._file: Any = None
        if is_url(self._url):
            suffix = os.path.splitext(self._url)[1]
            self._file = tempfile.NamedTemporaryFile(prefix="serab-byols-", suffix=suffix)  # noqa: SIM115
            self.path = self._file.name
            try:
                download(self._url, Path(self.path))
            except (OSError, MissingExtraError, InvalidInputError) as error:
                self.close()
                reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
                raise AudioFileError(f"{self._url}: cannot be downloaded ({reason})") from error

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors of the local file name what it is a copy of."""
        try:
            yield
        except (AudioFileError, InvalidInputError) as error:
            if self._file is None:
                raise
            raise type(error)(str(error).replace(os.fspath(self.path), self._url)) from error

    def close(self) -> None:
        """Remove the copy."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                self._file.close()

    def __enter__(self) -> LocalCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def download(url: str, target: Path) -> None:
    """Copy what a URL names to a local file.

    Raises:
        OSError: it is missing or cannot be read, after several tries.
    """
    store, path = file_system(url)
    persistently(lambda: store.get_file(path, str(target)))


def upload(source: Path, url: str) -> None:
    """Copy a local file to a URL, where it appears whole.

    Raises:
        OSError: it cannot be written, after several tries.
    """
    store, path = file_system(url)
    persistently(lambda: store.put_file(str(source), path))


def files_below(url: str) -> Iterator[str]:
    """URLs of the files in a folder and its subfolders, folder by folder; hidden ones are left out.

    Raises:
        OSError: it cannot be listed.
    """
    store, path = file_system(url)
    for entry in persistently(lambda: store.ls(path, detail=True)):
        name = store.unstrip_protocol(entry["name"])
        if entry["name"].rstrip("/") == path.rstrip("/") or name.rsplit("/", 1)[-1].startswith("."):
            continue
        if entry["type"] == "directory":
            yield from files_below(name)
        else:
            yield name


def is_folder(url: str) -> bool:
    """Whether a URL names a folder that has something in it."""
    store, path = file_system(url)
    return bool(persistently(lambda: store.isdir(path)))
