"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder, so that renaming it is atomic. If the block fails, it is
    removed, and ``path`` stays as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        flush_to_disk(scratch)  # before it may become read-only like the file it replaces
        os.chmod(scratch, _mode_for(path))
        os.replace(scratch, path)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def flush_to_disk(path: Path) -> None:
    """Wait until the file's bytes are on disk, safe from a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _mode_for(path: Path) -> int:
    """Permissions of the file that is replaced, or the default of a new file; mkstemp's are private."""
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
