"""How far embedding is: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

from serab_byols.cli.messages import FileErrors, log
from serab_byols.corpus.clip_bar import ClipBar
from serab_byols.corpus.listing import describe_passed_over
from serab_byols.display.progress_bar import is_watched

if TYPE_CHECKING:
    from serab_byols.corpus.dataset.part import Failure
    from serab_byols.corpus.segments import Segment

_LOG_INTERVAL_S = 30.0


class ClipProgress:
    """Progress over clips, and within long ones; the observer of :func:`embed_dataset`.

    Args:
        quiet: neither bar nor lines, but for the first errors.
        error_table: where all errors will be.
    """

    def __init__(self, quiet: bool, error_table: str) -> None:
        self._quiet = quiet
        self._error_table = error_table
        self._errors = FileErrors()
        self._bar = ClipBar(disable=quiet or not is_watched())
        self._n_segments = 0
        self._n_before = self._n_done = 0
        self._began = self._logged = time.monotonic()

    def start(self, n_segments: int, n_done: int, passed_over: Counter[str]) -> None:
        """So many clips in all, of which so many were done earlier."""
        self._n_segments, self._n_before, self._n_done = n_segments, n_done, n_done
        if passed_over and not self._quiet:
            log(f"passed over {describe_passed_over(passed_over)}")
        self._bar.start(n_segments, n_done)
        self._began = self._logged = time.monotonic()

    def advance(self, n_segments: int) -> None:
        """So many more clips are done."""
        self._n_done += n_segments
        self._bar.advance(n_segments)
        if self._bar.disable and not self._quiet and time.monotonic() - self._logged > _LOG_INTERVAL_S:
            self._log()

    def within(self, segment: Segment, done: float) -> None:
        """So much of a long clip is done, from 0 to 1."""
        self._bar.within(segment, done)

    def fail(self, failure: Failure) -> None:
        """A clip could not be embedded, or not as a whole."""
        self.tell(failure.error)

    def tell(self, error: str) -> None:
        """Print an error above the bar, if it is one of the first."""
        self._errors.add(error)

    def __enter__(self) -> ClipProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if error is None:
            self._errors.finish(self._error_table)

    def _log(self) -> None:
        self._logged = time.monotonic()
        a_second = (self._n_done - self._n_before) / (self._logged - self._began)
        left_s = (self._n_segments - self._n_done) / a_second if a_second else 0
        speed = f"{a_second:.1f} a second, about {_duration(left_s)} left"
        log(f"{self._n_done} of {self._n_segments} clips, {speed}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def errors_in_words(n_errors: int, n_partial: int, n_clips: int) -> str:
    """Such as ``2 of 9 clips could not be embedded, or not as a whole (1)``."""
    partial = f", or not as a whole ({n_partial})" if n_partial else ""
    return f"{n_errors} of {n_clips} clips could not be embedded{partial}"
