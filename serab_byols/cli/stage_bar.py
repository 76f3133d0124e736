"""A progress bar for work in stages, on stderr."""

from __future__ import annotations

from serab_byols.cli.messages import printable


class StageBar:
    """A progress bar for the current stage."""

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._quiet = quiet
        self._stage = ""
        self._bar = tqdm(disable=True)

    def __call__(self, stage: str, n_done: int, n_total: int) -> None:
        if stage != self._stage:
            self._bar.close()
            self._stage = stage
            self._bar = self._tqdm(total=n_total, desc=printable(stage), disable=self._quiet)
        self._bar.update(n_done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
