"""What holds for every output: it appears whole or not at all, and it is not an input."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serab_byols.errors import InvalidInputError


@contextmanager
def atomic_write(path: Path, scratch_folder: Path | None = None) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder, so that renaming it is atomic, or in ``scratch_folder`` on the
    same file system. If the block fails, it is removed, and ``path`` stays as it was. Of a symbolic link the
    target is replaced.

    Raises:
        InvalidInputError: there is something at ``path`` that is not a regular file.
    """
    check_replaceable(path)
    path = path.resolve() if path.is_symlink() else path
    scratch = (scratch_folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"
    os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = scratch.stat().st_mode  # by the umask; safetensors puts a file of mode 0600 in its place
    try:
        yield scratch
        flush_to_disk(scratch)  # before it may become read-only like the file it replaces
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode
        os.chmod(scratch, mode & 0o7777)
        os.replace(scratch, path)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def flush_to_disk(path: Path) -> None:
    """Wait until the file's bytes are on disk, safe from a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def check_replaceable(path: Path) -> None:
    """Refuse to replace what is not a regular file, such as a device.

    Raises:
        InvalidInputError: there is such a thing at ``path``.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise InvalidInputError(f"the output {path} is {what}")


def check_not_an_input(outputs: Iterable[Path | None], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse to write over what is read, under whatever name.

    Raises:
        InvalidInputError: an output is the same file as an input.
    """
    written = {}
    for output in outputs:
        if output is not None and output.is_file():
            status = output.stat()
            written[status.st_dev, status.st_ino] = output
    if not written:
        return
    for path in inputs:
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # whoever reads it says what is wrong with it
            continue
        overwritten = written.get((status.st_dev, status.st_ino))
        if overwritten is not None:
            raise InvalidInputError(f"the output {overwritten} is also an input: choose another name for it")
