"""How far embedding is, as a progress bar over clips and one within a long recording."""

from __future__ import annotations

import os
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serab_byols.display.progress_bar import progress_bar

if TYPE_CHECKING:
    from serab_byols.corpus.segments import Segment


class ClipBar:
    """Bars of a run, a context that ends them; an observer of :func:`embed_dataset`.

    Args:
        disable: show nothing.

    Attributes:
        disable: whether it shows nothing.
    """

    def __init__(self, disable: bool = False) -> None:
        self.disable = disable
        self._bar = progress_bar(unit="clip", disable=disable)
        self._within: Any = None

    def start(self, n_segments: int | None, n_done: int = 0, passed_over: Counter[str] | None = None) -> None:
        """So many clips in all (None: not known), of which so many were done earlier."""
        self._bar.reset(total=n_segments)
        self._bar.initial = n_done
        self._bar.update(n_done)

    def advance(self, n_segments: int) -> None:
        """So many more clips are done."""
        self._close_within()
        self._bar.update(n_segments)

    def within(self, segment: Segment, done: float) -> None:
        """So much of a long clip is done, from 0 to 1."""
        if self.disable:
            return
        if self._within is None:
            name = os.path.basename(segment.file)
            self._within = progress_bar(name, total=100, unit="%", leave=False, position=1)
        self._within.update(int(100 * done) - self._within.n)

    def fail(self, failure: object) -> None:
        """A clip could not be embedded; who wants to know finds it in the table of errors."""

    def close(self) -> None:
        """End the bars; another call does nothing."""
        self._close_within()
        self._bar.close()

    def __enter__(self) -> ClipBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_within(self) -> None:
        if self._within is not None:
            self._within.close()
            self._within = None
