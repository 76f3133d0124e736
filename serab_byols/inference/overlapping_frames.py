"""Overlapping frames of a waveform, and their log-mels with each column that frames share computed once.

Cutting frames first would transform every stretch of sound once for each frame that holds it, 20
times at the default hop. But a column of a frame's log-mel depends on the 400 samples under its window
alone; only the columns at a frame's edges, whose windows reach into the reflected padding, are the
frame's own. So interior columns are computed once for every position on the clip, whatever the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from serab_byols.frontend import HOP_SAMPLES, WINDOW_SAMPLES, LogMelFrontend, TorchFrontend
from serab_byols.normalization import Statistics

_REACH = WINDOW_SAMPLES // 2
FIRST_INNER = -(-_REACH // HOP_SAMPLES)
"""The first column whose window lies within its frame; the ones before it are at the frame's edge."""


@dataclass(frozen=True)
class FrameBatch:
    """Some frames of a waveform.

    Attributes:
        front: the model's front end.
        stretch: the samples (m,) that the frames lie in.
        starts: first samples of the frames (k,), int64, in order, on the stretch's device.
        frame_samples: length of every frame.
        min_samples: shorter frames get zeros appended up to here.
        statistics: the log-mels are normalised with these.
    """

    front: LogMelFrontend
    stretch: torch.Tensor
    starts: torch.Tensor
    frame_samples: int
    min_samples: int
    statistics: Statistics

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, which: torch.Tensor) -> FrameBatch:
        return replace(self, starts=self.starts[which])

    @property
    def n_columns(self) -> int:
        """Log-mel columns T of a frame."""
        return 1 + max(self.frame_samples, self.min_samples) // HOP_SAMPLES

    @property
    def last_inner(self) -> int:
        """The last column whose window lies within its frame."""
        return (self.frame_samples - _REACH) // HOP_SAMPLES

    @property
    def can_share(self) -> bool:
        """Whether columns can be told from the samples under their windows."""
        return (
            isinstance(self.front, TorchFrontend)
            and self.frame_samples >= self.min_samples
            and self.last_inner >= FIRST_INNER
        )

    def log_mels(self) -> torch.Tensor:
        """Normalised log-mels (k, 64, T): equal to cutting the frames first, but for rounding."""
        if not self.can_share:
            offsets = torch.arange(self.frame_samples, device=self.stretch.device)
            frames = self.stretch[self.starts[:, None] + offsets]
            missing = max(0, self.min_samples - self.frame_samples)
            return self._normalized(self.front(F.pad(frames, (0, missing))))
        inner = torch.arange(FIRST_INNER, self.last_inner + 1, device=self.stretch.device)
        firsts, which = torch.unique(self.starts[:, None] + inner * HOP_SAMPLES, return_inverse=True)
        left, right = self.edge_columns()
        return torch.cat([left, self.columns_at(firsts)[which], right], dim=1).transpose(1, 2)

    def columns_at(self, centres: torch.Tensor) -> torch.Tensor:
        """Normalised columns (N, 64) with windows centred on these samples (N,) of the stretch."""
        windows = self.stretch.unfold(0, WINDOW_SAMPLES, 1)[centres - _REACH]
        return self._columns(windows)

    def edge_columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised first and last columns (k, c, 64) of every frame, where samples are reflected."""
        device = self.stretch.device
        outer = torch.cat(
            [
                torch.arange(FIRST_INNER, device=device),
                torch.arange(self.last_inner + 1, self.n_columns, device=device),
            ]
        )
        offsets = torch.arange(-_REACH, WINDOW_SAMPLES - _REACH, device=device)
        end = self.frame_samples - 1
        within = end - (end - (outer[:, None] * HOP_SAMPLES + offsets).abs()).abs()
        windows = self.stretch[self.starts[:, None, None] + within]
        columns = self._columns(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
        return columns[:, :FIRST_INNER], columns[:, FIRST_INNER:]

    def _columns(self, windows: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.front, TorchFrontend)
        return self._normalized(self.front.log_mel_of_windows(windows))

    def _normalized(self, log_mel: torch.Tensor) -> torch.Tensor:
        return (log_mel - self.statistics.mean) / self.statistics.std
