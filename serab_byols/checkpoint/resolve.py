"""From what a user calls weights, a path or a name, to the file."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from serab_byols.checkpoint import registry
from serab_byols.checkpoint.registry import DEFAULT_CHECKPOINT, DEFAULT_NAME, PublishedWeights
from serab_byols.checkpoint.verify import mismatch
from serab_byols.errors import CheckpointError, CheckpointNotFoundError

_WORKING_FOLDER = Path("checkpoints")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""What a user who types a name types; a path has a separator or an ending."""


def resolve_checkpoint(
    text: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Path:
    """Path of the checkpoint that ``text`` is the path or the name of; empty for the default weights.

    A file at that path comes first, then bundled and published names. Published weights are verified
    wherever they lie: in a folder ``checkpoints/``, else in the cache, whereto they are downloaded.
    Any other path is returned as it is.

    Raises:
        CheckpointNotFoundError: no weights of that name, not here while offline, or the path of a
            published file that is absent; the message says how to get it.
        CheckpointError: a file in ``checkpoints/`` has a published name and other bytes.
        DownloadError: published weights could not be downloaded, or came with other bytes.
    """
    text = os.fspath(text)
    if not text:
        return default_checkpoint()
    if os.path.isfile(text):
        return Path(text)
    bundled = registry.bundled_path(text)
    if bundled is not None:
        return bundled
    weights = registry.published(text)
    if weights is not None:
        return published_checkpoint(weights, cache_dir=cache_dir, offline=offline)
    if not os.path.lexists(text):
        _explain_absence(text)
    return Path(text)


def named_weights(text: str | os.PathLike[str]) -> PublishedWeights | None:
    """The published weights that ``text`` names; None where it is a file, another name or no name."""
    text = os.fspath(text)
    return None if os.path.isfile(text) else registry.published(text)


def default_checkpoint() -> Path:
    """Path of the default weights.

    Raises:
        CheckpointNotFoundError: this installation carries none.
    """
    path = registry.bundled_path(DEFAULT_NAME)
    if path is None:
        raise CheckpointNotFoundError(
            f"this installation carries no default weights ({DEFAULT_CHECKPOINT}). Pass the path of a "
            'checkpoint, load_model("path/to/weights.pth"), or a name that `serab-byols list` shows, or use '
            'random weights as a baseline, create_model("default")'
        )
    return path


def published_checkpoint(
    weights: PublishedWeights,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Path:
    """The verified file of published weights, from a folder ``checkpoints/`` or through the cache.

    Raises:
        CheckpointNotFoundError: not here while offline.
        CheckpointError: a file in ``checkpoints/`` has its name and other bytes.
        DownloadError: it could not be downloaded, or came with other bytes.
    """
    path = local_copy(weights)
    if path is None:
        # What downloads is imported where something may be downloaded.
        from serab_byols.checkpoint.download import fetch

        return fetch(weights, cache_dir, offline=offline)
    try:
        fault = mismatch(path, weights)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if fault is not None:
        raise CheckpointError(
            f"{path} is not the published file: {fault}. Delete it, or rename it if it is yours, and "
            f"{weights.name} is downloaded"
        )
    return path


def local_copy(weights: PublishedWeights) -> Path | None:
    """A file in a folder ``checkpoints/`` that has the published name; its bytes are not looked at."""
    folders = (_WORKING_FOLDER, *registry.CHECKPOINT_FOLDERS)
    paths = (folder / weights.file_name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _explain_absence(text: str) -> None:
    """Raise where more can be said than that there is no such file."""
    path = Path(text)
    weights = registry.published_as(path.name)
    if weights is not None:
        command = f"serab-byols download {weights.name} -o {shlex.quote(str(path.parent))}"
        raise CheckpointNotFoundError(
            f"checkpoint {path} does not exist. This puts it there: {command}. "
            f'Or load it by its name, which downloads it once: load_model("{weights.name}")'
        )
    if _NAME.fullmatch(text):
        raise CheckpointNotFoundError(f"checkpoint {path} does not exist, and {registry.unknown_name(text)}")
