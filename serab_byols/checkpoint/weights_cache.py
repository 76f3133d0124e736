"""Files of published weights: verified before every use, downloaded once."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint import registry
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.display.progress_bar import is_watched, progress_bar
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, DownloadError, InvalidInputError
from serab_byols.paths import as_path

TIMEOUT_S = 30.0
"""How long a server may send nothing."""
PAUSES_S = (1.0, 2.0)
"""Before the second and the third attempt at a download."""
_BLOCK_BYTES = 1 << 18


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder for downloads: ``cache_dir``, else ``SERAB_BYOLS_CACHE``, else the user's cache."""
    folder = cache_dir or os.environ.get("SERAB_BYOLS_CACHE")
    if not folder:
        import pooch

        folder = pooch.os_cache("serab_byols")
    try:
        return as_path(folder, "the cache").expanduser()
    except RuntimeError as error:
        raise InvalidInputError("there is no home directory for the cache: set SERAB_BYOLS_CACHE") from error


def is_offline(offline: bool | None = None) -> bool:
    """Whether downloads are forbidden: ``offline``, else ``SERAB_BYOLS_OFFLINE``, else no."""
    if offline is not None:
        return offline
    return os.environ.get("SERAB_BYOLS_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def local_copy(weights: PublishedWeights) -> Path | None:
    """A file with the published name in a folder ``checkpoints/``, not yet verified."""
    folders = (Path("checkpoints"), *registry.CHECKPOINT_FOLDERS)
    paths = (folder / weights.file_name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def find_or_download(
    weights: PublishedWeights, cache_dir: str | os.PathLike[str] | None = None, offline: bool | None = None
) -> Path:
    """The verified file of published weights: from a folder ``checkpoints/``, the cache or the web.

    Raises:
        CheckpointNotFoundError: offline, and not on this machine.
        CheckpointError: other bytes under the published name, in ``checkpoints/`` or, offline, in the cache.
        DownloadError: the server cannot be reached, refuses or sends other bytes, or the cache
            cannot be written.
    """
    local = local_copy(weights)
    path = local or cache_folder(cache_dir) / weights.file_name
    problem = mismatch(path, weights)
    if problem is None:
        return path
    if local is not None:
        raise CheckpointError(
            f"{path} is not the published file: {problem}. Delete it, or rename it if it is yours, and "
            f"{weights.name} is downloaded"
        )
    by_hand = f"or get {weights.url} by other means and put it, under its name, into a folder checkpoints/"
    if is_offline(offline):
        damaged = path.exists()
        state = f"{path} is damaged: {problem}" if damaged else f"{weights.name} is not in {path.parent}"
        raise (CheckpointError if damaged else CheckpointNotFoundError)(
            f"{state}; and offline mode forbids downloads. Leave offline mode, {by_hand}"
        )
    try:
        _download(weights, path)
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"{weights.name} could not be downloaded from {weights.url} to {path.parent}: {error}. Behind a "
            f"proxy set HTTPS_PROXY, for another folder set SERAB_BYOLS_CACHE, {by_hand}"
        ) from error
    return path


def mismatch(path: Path, weights: PublishedWeights) -> str | None:
    """How the file differs from the published one; None if it does not."""
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            # SHA-1 is git's identity of a file; where FIPS rules forbid it for security, they allow this.
            blob_id = hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)
            while block := file.read(_BLOCK_BYTES):
                blob_id.update(block)
                sha256.update(block)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    for what, found, expected in (
        ("size in bytes", n_bytes, weights.n_bytes),
        ("sha256", sha256.hexdigest(), weights.sha256),
        ("git blob id", blob_id.hexdigest(), weights.git_blob_id),
    ):
        if expected not in (None, found):
            return f"its {what} is {found}, expected {expected}"
    return None


def _download(weights: PublishedWeights, path: Path) -> None:
    """Download beside ``path``; the file takes its name once it is verified.

    Processes that download at once do not disturb each other.
    """
    from pooch import HTTPDownloader

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as scratch:
        for pause_s in (*PAUSES_S, None):
            n_bytes = weights.n_bytes or 1  # pooch wants some; the server tells how many there are
            try:
                with progress_bar(total=n_bytes, unit="B", unit_scale=True, disable=not is_watched()) as bar:
                    download = HTTPDownloader(progressbar=bar, chunk_size=_BLOCK_BYTES, timeout=TIMEOUT_S)
                    download(weights.url, str(scratch), None)
                break
            except OSError:  # the errors of requests are of this kind
                if pause_s is None:
                    raise
                time.sleep(pause_s)
        problem = mismatch(scratch, weights)
        if problem is not None:
            raise ValueError(f"what came is not the published file: {problem}")
