"""A progress bar for work in stages."""

from __future__ import annotations

from serab_byols.display.progress_bar import progress_bar


class StageBar:
    """A progress bar for the current stage: what functions with ``on_progress=`` may call.

    Args:
        quiet: show nothing.

    Example:
        >>> bar = StageBar(quiet=True)
        >>> bar("fold 1", 0, 10)
        >>> bar.close()
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stage = ""
        self._bar = progress_bar(disable=True)

    def __call__(self, stage: str, n_done: int, n_total: int) -> None:
        """So much of a stage is done."""
        if stage != self._stage:
            self._bar.close()
            self._stage = stage
            self._bar = progress_bar(stage, total=n_total, disable=self._quiet)
        self._bar.update(n_done - self._bar.n)

    def close(self) -> None:
        """End the bar; another call does nothing."""
        self._bar.close()
