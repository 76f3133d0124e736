"""Progress bars of tqdm: a line of text or, in notebooks that have ipywidgets, a widget."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from serab_byols.display.printable import printable


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook: in Jupyter, VS Code or Colab."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


def is_watched() -> bool:
    """Whether somebody can see a bar: stderr is a terminal, or this is a notebook."""
    return (sys.stderr is not None and sys.stderr.isatty()) or in_notebook()


def progress_bar(description: str = "", *, disable: bool = False, **options: Any) -> Any:
    """A bar of tqdm's, which its context or ``close`` ends.

    ``tqdm.auto`` warns in notebooks without ipywidgets; this takes the line of text.

    Args:
        description: shown before the bar; may come from a file.
        disable: show nothing.
        **options: of ``tqdm.tqdm``.
    """
    from tqdm import tqdm

    disable = disable or sys.stderr is None
    if not disable and in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import IProgress, tqdm_notebook

        if IProgress is not None:
            bar = tqdm_notebook(**options)
            bar.set_description(printable(description))  # escaped; as an argument it would be HTML
            return bar
    return tqdm(desc=printable(description) or None, disable=disable, **options)


@contextmanager
def above_the_bars() -> Iterator[None]:
    """Lines that are printed in this context go above the bars, if there are any."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield
