"""Where downloaded weights are kept, and whether anything may be downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from serab_byols.errors import InvalidInputError

CACHE_VARIABLE = "SERAB_BYOLS_CACHE"
OFFLINE_VARIABLE = "SERAB_BYOLS_OFFLINE"
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """The folder for downloaded weights: ``chosen``, else ``SERAB_BYOLS_CACHE``, else the user's cache.

    Raises:
        InvalidInputError: the user has no home to keep anything in.
    """
    place = chosen or os.environ.get(CACHE_VARIABLE)
    try:
        return Path(place).expanduser() if place else _users_cache() / "serab_byols"
    except RuntimeError as error:  # how pathlib says it
        raise InvalidInputError(f"no cache folder is known ({error}): set {CACHE_VARIABLE}") from error


def _users_cache() -> Path:
    """Where this platform keeps what can be had again."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def is_offline(chosen: bool | None = None) -> bool:
    """Whether downloads are forbidden: ``chosen``, else ``SERAB_BYOLS_OFFLINE``, else no.

    Raises:
        InvalidInputError: the variable says neither yes nor no.
    """
    if chosen is not None:
        return chosen
    said = os.environ.get(OFFLINE_VARIABLE, "").strip().lower()
    if said not in _YES | _NO:
        raise InvalidInputError(f"{OFFLINE_VARIABLE} is {said!r}: set it to 1 or to 0")
    return said in _YES
