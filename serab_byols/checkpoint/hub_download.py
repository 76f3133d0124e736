"""Checkpoints on the Hugging Face Hub, by addresses such as ``hf://owner/name``; needs the extra ``hub``.

Only files of this project's own format are read from there: safetensors, which is never unpickled.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from serab_byols.checkpoint.weights_cache import is_offline
from serab_byols.errors import CheckpointNotFoundError, DownloadError, InvalidInputError, missing_extra

HUB_FILE = "model.safetensors"
"""The checkpoint in a repository, unless an address names another."""

_SCHEME = "hf://"
# As the Hub's own hf:// paths; of the revisions only pull requests and conversions contain a slash.
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?"
    r"(?:/(?P<file>[^@]+\.safetensors))?/?"
)
_OTHER_KINDS = ("datasets/", "spaces/", "buckets/")


@dataclass(frozen=True)
class HubAddress:
    """A checkpoint in a model repository of the Hub.

    Attributes:
        repository: ``owner/name``.
        revision: branch, tag or commit; None for the default branch.
        file: within the repository.
    """

    repository: str
    revision: str | None = None
    file: str = HUB_FILE

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file != HUB_FILE else ""
        return f"{_SCHEME}{self.repository}{revision}{file}"


def is_hub_address(text: str) -> bool:
    """Whether the text is meant as an address on the Hub."""
    return text.startswith(_SCHEME)


def parse_hub_address(text: str) -> HubAddress:
    """The parts of ``hf://owner/name``, ``hf://owner/name@revision`` or ``hf://owner/name/FILE.safetensors``.

    Raises:
        InvalidInputError: another form, or a file that is not safetensors.

    Example:
        >>> str(parse_hub_address("hf://someone/speech@v2"))
        'hf://someone/speech@v2'
        >>> parse_hub_address("hf://someone/speech/small/model.safetensors").file
        'small/model.safetensors'
    """
    found = _ADDRESS.fullmatch(text)
    if (
        found is None
        or found["repository"].startswith(_OTHER_KINDS)
        or ".." in (found["file"] or "").split("/")
    ):
        raise InvalidInputError(
            f"{text!r} is not a checkpoint on the Hub: write hf://owner/name, hf://owner/name@revision, "
            "or add /FILE.safetensors (other formats are not read from the Hub)"
        )
    revision = found["revision"] and unquote(found["revision"])
    return HubAddress(found["repository"], revision, found["file"] or HUB_FILE)


def download_from_hub(
    address: HubAddress,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
) -> tuple[Path, HubAddress]:
    """The file in the Hub's cache, downloaded if it is not there, and its address with the commit it is of.

    Args:
        address: of the file.
        cache_dir: the cache; by default the Hub's own (``HF_HUB_CACHE``, ``HF_HOME``).
        offline: whether to look in the cache alone; by default as ``SERAB_BYOLS_OFFLINE`` and
            ``HF_HUB_OFFLINE`` say.
        token: as the Hub's libraries take it; by default that of ``hf auth login`` or ``HF_TOKEN``.
        force_download: whether to download what is in the cache already.

    Raises:
        CheckpointNotFoundError: no such repository (or it is private), revision or file, or, offline, not in
            the cache.
        DownloadError: the Hub cannot be reached or refuses, or the cache cannot be written.
        InvalidInputError: the Hub does not allow such a name.
        MissingExtraError: ``huggingface_hub`` is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", f"loading {address}") from error
    try:
        path = huggingface_hub.hf_hub_download(
            address.repository,
            address.file,
            revision=address.revision,
            cache_dir=None if cache_dir is None else Path(cache_dir).expanduser(),
            local_files_only=is_offline(offline),
            token=token,
            force_download=force_download,
        )
    except Exception as error:  # those of the HTTP client change with the Hub's version
        _raise_ours(address, error)
    # .../snapshots/COMMIT/FILE
    commit = Path(path).parents[address.file.count("/")].name
    return Path(path), HubAddress(address.repository, commit, address.file)


def _raise_ours(address: HubAddress, error: Exception) -> NoReturn:
    """The Hub's error as one of ours."""
    from huggingface_hub import constants, errors

    at = f"{constants.ENDPOINT}/{address.repository}"
    if isinstance(error, errors.HFValidationError):
        raise InvalidInputError(f"{address} is not a name that the Hub allows: {error}") from error
    if isinstance(error, errors.GatedRepoError):
        raise DownloadError(f"{address} is gated: ask for access at {at}, and `hf auth login`") from error
    if isinstance(error, errors.RepositoryNotFoundError):
        raise CheckpointNotFoundError(
            f"{address}: there is no repository {at}, or it is private: then `hf auth login`, or set HF_TOKEN"
        ) from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise CheckpointNotFoundError(f"{address}: {at} has no revision {address.revision!r}") from error
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
        if cause is None or isinstance(cause, errors.OfflineModeIsEnabled):
            raise CheckpointNotFoundError(
                f"{address} is not in the Hub's cache, and offline mode forbids downloads"
            ) from error
        raise DownloadError(
            f"{address} is not in the Hub's cache, and {at} cannot be reached: {_first_line(cause)}"
        ) from error
    if isinstance(error, errors.EntryNotFoundError):
        raise CheckpointNotFoundError(f"{address}: {at} has no file {address.file}") from error
    raise DownloadError(f"{address} could not be downloaded from {at}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
