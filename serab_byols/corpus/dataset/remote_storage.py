"""A dataset in an object store: each file is written with one put, so it is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serab_byols.corpus.dataset.storage import RUN_FOLDER
from serab_byols.corpus.remote import download, file_system, persistently, upload
from serab_byols.errors import InvalidInputError

HEARTBEAT_S = 5.0
"""A store cannot say whether the process that wrote a lock is alive: it renews its lock this often."""


class RemoteStorage:
    """A folder in an object store.

    Args:
        url: of the folder.
    """

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")

    def names(self, folder: str = "") -> Iterator[str]:
        store, path = file_system(self._url(folder))

        def listed() -> list[str]:
            try:
                return [entry["name"] for entry in store.ls(path, detail=True) if entry["type"] == "file"]
            except FileNotFoundError:
                return []

        yield from (name.rsplit("/", 1)[-1] for name in persistently(listed))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with _scratch(name) as scratch:
            yield scratch
            upload(scratch, self._url(name))

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with _scratch(name) as scratch:
            download(self._url(name), scratch)
            yield scratch

    def opened(self, name: str) -> Any:
        store, path = file_system(self._url(name))
        return persistently(lambda: store.open(path, "rb"))

    def remove(self, name: str) -> None:
        store, path = file_system(self._url(name))
        with suppress(FileNotFoundError):
            persistently(lambda: store.rm_file(path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """By a file that is renewed: one that is not renewed any more was left by a killed run."""
        token = secrets.token_hex(8)
        seen = self._read_lock()
        if seen:
            time.sleep(3 * HEARTBEAT_S)
            if self._read_lock() != seen:
                self._refuse()
        self._write_lock(token, 0)
        time.sleep(HEARTBEAT_S / 5)
        if not self._read_lock().startswith(token):  # two began at the same moment
            self._refuse()
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(token, ended), name="lock", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join()
            self.remove(f"{RUN_FOLDER}/lock")

    def contains(self, path: str) -> bool:
        return path == self.location or path.startswith(f"{self.location}/")

    def _refuse(self) -> None:
        raise InvalidInputError(
            f"another run is writing to {self.location}: wait until it ends, or choose another folder"
        )

    def _renew(self, token: str, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(HEARTBEAT_S):
            count += 1
            with suppress(OSError):
                self._write_lock(token, count)

    def _read_lock(self) -> str:
        try:
            with self.reading(f"{RUN_FOLDER}/lock") as path:
                return path.read_text()
        except FileNotFoundError:
            return ""

    def _write_lock(self, token: str, count: int) -> None:
        with self.writing(f"{RUN_FOLDER}/lock") as path:
            path.write_text(f"{token} {count}")

    def _url(self, name: str) -> str:
        return f"{self.location}/{name}".rstrip("/")


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="serab-byols-") as folder:
        yield Path(folder) / os.path.basename(name)
