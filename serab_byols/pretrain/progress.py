"""How far a long piece of work is: a bar on a terminal and in notebooks, elsewhere a line now and then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from serab_byols.display.progress_bar import above_the_bars, is_watched, progress_bar

LINE_EVERY_S = 60.0
"""Where there is no bar there is a line after this time, and again after it."""


class Progress:
    """The progress of one piece of work, a context that ends it.

    Args:
        what: is done.
        total: how many units there are to do; None while that is not known.
        unit: one of them, in the singular.
        on_line: called with lines where a bar would not be seen; None for neither bar nor lines.
        initial: how many are done already.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        on_line: Callable[[str], None] | None,
        initial: int = 0,
    ) -> None:
        has_bar = is_watched()
        self._what, self._unit = what, unit
        self._total, self._initial, self._done = total, initial, initial
        self._on_line = None if has_bar else on_line
        self._began_s = self._said_s = time.monotonic()
        hidden = on_line is None or not has_bar
        self._bar = progress_bar(what, total=total, initial=initial, unit=unit, disable=hidden)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar; another call does nothing."""
        self._bar.close()

    def update(self, **numbers: str) -> None:
        """One more unit is done; ``numbers`` are shown beside."""
        self._done += 1
        self._bar.update()
        if numbers:
            self._bar.set_postfix(numbers, refresh=False)
        now_s = time.monotonic()
        if self._on_line is not None and now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            beside = "".join(f", {name} {value}" for name, value in numbers.items())
            self._on_line(self._line(now_s) + beside)

    def _line(self, now_s: float) -> str:
        if self._total is None:
            return f"{self._what}: {self._done} {self._unit}s"
        left = self._total - self._done
        left_s = left * (now_s - self._began_s) / (self._done - self._initial)
        ending = f", about {duration(left_s)} left" if left else ""
        return f"{self._what}: {self._done} of {self._total} {self._unit}s{ending}"


@dataclass(frozen=True)
class Reporting:
    """What a training tells the one who waits for it.

    Attributes:
        on_message: called with lines.
        shows_progress: whether there are bars and lines of progress too.
    """

    on_message: Callable[[str], None] = print
    shows_progress: bool = True

    def message(self, text: str) -> None:
        """A line, above the bar if there is one."""
        with above_the_bars():
            self.on_message(text)

    def track(self, what: str, total: int | None, unit: str, initial: int = 0) -> Progress:
        """The progress of a piece of work; see :class:`Progress`."""
        return Progress(what, total, unit, self.message if self.shows_progress else None, initial)


SILENT = Reporting(lambda _: None, shows_progress=False)


def is_started_by_another() -> bool:
    """Whether this is one of several processes, and not the first of them, which reports.

    The environment says so before Lightning is imported.
    """
    ranks = ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID")
    return any(os.environ.get(name, "0") != "0" for name in ranks)


def duration(seconds: float) -> str:
    """A time as a person would say it.

    Example:
        >>> duration(40), duration(12_000), duration(200_000)
        ('40 s', '3 h 20 min', '2 days 8 h')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} days" + (f" {hours} h" if hours else "")
