"""Words to the user, on stderr: they may be lost, but never stop the work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from serab_byols.display.printable import printable
from serab_byols.display.progress_bar import above_the_bars


def log(message: str) -> None:
    """Print one line to stderr; where nobody can read it, such as at a full device, it is dropped."""
    if sys.stderr is None:
        return
    try:
        print(f"serab-byols: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Send what a stream still holds nowhere, so that the interpreter does not fail on it when it ends."""
    with suppress(OSError, ValueError):  # streams that are not files have no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class FileErrors:
    """Prints the first errors of a run's files, a line each, and counts the others.

    Lines go above a progress bar of tqdm, if there is one.

    Args:
        most: number of errors to print.

    Attributes:
        n: number of errors so far.

    Example:
        >>> errors = FileErrors(most=2)
        >>> for name in ("a", "b", "c", "d"):
        ...     errors.add(f"{name}.wav: no such file")
        >>> errors.finish("out.npz.errors.csv")
        >>> errors.n
        4
    """

    def __init__(self, most: int = 20) -> None:
        self.n = 0
        self._most = most

    def add(self, error: str) -> None:
        """Count an error, and print it if it is one of the first; its text may come from a file."""
        self.n += 1
        if self.n <= self._most:
            self._above_the_bar(printable(error))

    def finish(self, table: str | os.PathLike[str] | None = None) -> None:
        """Say how many errors were not printed, if there are any, and where the list of all is."""
        n_more = self.n - self._most
        if n_more > 0:
            where = "" if table is None else f"; all {self.n} are in {printable(str(Path(table)))}"
            self._above_the_bar(f"and {n_more} more errors{where}")

    def _above_the_bar(self, line: str) -> None:
        with above_the_bars():
            log(line)
