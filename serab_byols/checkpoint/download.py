"""Published weights into the cache: downloaded once, whole or not at all, verified always."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
from tqdm import tqdm

from serab_byols.checkpoint.cache import cache_folder, is_offline
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.checkpoint.transfer import Part, Patience, Progress, receive
from serab_byols.checkpoint.verify import mismatch
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, DownloadError

UNKNOWN_SIZE_LIMIT_BYTES = 256 << 20
"""Of a file whose size is not known; the largest that is known has a third of it."""

PATIENCE = Patience()


def fetch(
    weights: PublishedWeights,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool | None = None,
    progress: bool | None = None,
    patience: Patience | None = None,
) -> Path:
    """The verified file of published weights, downloaded if the cache does not have it.

    Processes that ask at once download once. An interrupted download is continued by the next call.

    Args:
        weights: which.
        cache_dir: folder; by default ``SERAB_BYOLS_CACHE``, or the user's cache.
        offline: use what is in the cache and nothing else; by default ``SERAB_BYOLS_OFFLINE``.
        progress: a bar on stderr; by default where that is a terminal.
        patience: attempts and timeouts.

    Returns:
        Path of the file, whose bytes are those that were published.

    Raises:
        CheckpointNotFoundError: offline, and the cache does not have it.
        CheckpointError: offline, and the file in the cache is damaged.
        DownloadError: the server cannot be reached, refuses, or sends other bytes; or the cache
            cannot be written.
    """
    path = cache_folder(cache_dir) / weights.file_name
    try:
        fault = _fault(path, weights)
        if fault is None:
            return path
        if is_offline(offline):
            raise _unavailable(weights, path, fault)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, patience or PATIENCE):
            if _fault(path, weights) is not None:  # no other process was faster
                _download(weights, path, _wants_bar(progress), patience or PATIENCE)
    except (DownloadError, CheckpointNotFoundError):  # kinds of OSError too
        raise
    except OSError as error:
        raise DownloadError(
            f"the cache {path.parent} cannot be used: {error.strerror or error}. Choose another folder with "
            f"SERAB_BYOLS_CACHE or cache_dir, {_by_hand(weights)}"
        ) from error
    return path


def _fault(path: Path, weights: PublishedWeights) -> str | None:
    """What keeps the file from being used: that it is not there, or how it differs."""
    try:
        return mismatch(path, weights)
    except FileNotFoundError:
        return "it is not there"


def _unavailable(weights: PublishedWeights, path: Path, fault: str) -> Exception:
    if not path.exists():
        return CheckpointNotFoundError(
            f"{weights.name} is not in the cache {path.parent}, and offline mode forbids to download it. "
            f"Allow it, {_by_hand(weights)}"
        )
    return CheckpointError(
        f"{path} is damaged: {fault}; and offline mode forbids to download it again. Allow it, "
        f"{_by_hand(weights)}"
    )


def _by_hand(weights: PublishedWeights) -> str:
    return (
        f"or get {weights.url} by other means and put it, under its name, into a folder checkpoints/ "
        "where you work: it is found there"
    )


@contextmanager
def _locked(path: Path, patience: Patience) -> Iterator[None]:
    """One process at a time; the system frees the lock of one that dies."""
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=patience.lock_s)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        raise DownloadError(
            f"another process has been downloading {path} for {patience.lock_s:g} s: if it hangs, end it"
        ) from error
    except NotImplementedError as error:
        raise OSError(f"its file system has no locks ({error})") from error


def _wants_bar(progress: bool | None) -> bool:
    # A program without a console has no stderr at all.
    return progress if progress is not None else sys.stderr is not None and sys.stderr.isatty()


def _download(weights: PublishedWeights, path: Path, bar: bool, patience: Patience) -> None:
    """Download beside ``path``, and give the file its name once it is seen to be the right one."""
    part = Part(path.with_name(f".{path.name}.part"))
    for begun_anew in (False, True):
        continued = _receive(weights, part, bar, patience)
        fault = mismatch(part.path, weights)
        if fault is None:
            os.replace(part.path, path)
            part.forget_tag()
            return
        part.discard()
        if begun_anew or not continued:  # else parts of two files may have met
            break
    raise DownloadError(
        f"{weights.url} is not the file that was published: {fault}. What came was deleted. Try again later, "
        f"{_by_hand(weights)}"
    )


def _receive(weights: PublishedWeights, part: Part, bar: bool, patience: Patience) -> bool:
    limit = UNKNOWN_SIZE_LIMIT_BYTES if weights.n_bytes is None else weights.n_bytes
    try:
        with _progress(weights, bar) as progress:
            return receive(
                weights.url,
                part,
                n_bytes=weights.n_bytes,
                limit_bytes=limit,
                patience=patience,
                progress=progress,
            )
    except DownloadError as error:
        raise DownloadError(
            f"{weights.name} could not be downloaded from {weights.url}: {error}. Is this machine offline, "
            f"or behind a firewall or proxy (HTTPS_PROXY)? Try again, {_by_hand(weights)}"
        ) from error


@contextmanager
def _progress(weights: PublishedWeights, bar: bool) -> Iterator[Progress]:
    with tqdm(desc=weights.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not bar) as shown:

        def tell(n_bytes: int, total: int | None) -> None:
            shown.total = total
            shown.update(n_bytes - shown.n)  # less than nothing where the file is begun anew

        yield tell
