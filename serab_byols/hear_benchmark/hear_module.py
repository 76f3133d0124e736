"""A module of the HEAR common API, found by its name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Make modules in the current folder importable, before all others, as they are for ``python -m``."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def import_hear_module(name: str) -> ModuleType:
    """Import a module by its dotted name, from what is installed or from the current folder.

    Raises:
        Exception: whatever the module raises; ImportError if there is none.
    """
    with current_folder_importable():
        return importlib.import_module(name)
