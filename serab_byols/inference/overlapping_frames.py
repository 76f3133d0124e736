"""Overlapping frames of a waveform, and their log-mels with each column that frames share computed once.

Cutting frames first would transform every sample once for each frame that holds it, 20 times at the
default hop. Sharing gives the same columns. Let ``x`` be the zero-padded waveform, ``r = 200`` half the
window's 400 samples and ``h = 160`` the hop of the spectrogram, both in samples. The front end centres
column ``c`` of a frame that starts at ``s`` on sample ``c h`` of that frame, so the column depends on

    x[s + c h - r], ..., x[s + c h + r - 1]

alone, as long as all of these lie within the frame: ``c h >= r`` and ``c h + r <= frame_samples``, that is
``FIRST_INNER <= c <= last_inner``. Such an inner column is a function of ``s + c h``, its centre on the
waveform, and two frames that have a column centred there have the same one. It is computed once per
distinct centre, for any hop and any frame length. The few columns before ``FIRST_INNER`` and after
``last_inner`` see samples reflected at the frame's edges; these are computed frame by frame.
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


def n_frame_columns(frame_samples: int, min_samples: int) -> int:
    """Log-mel columns of one frame, which is padded to ``min_samples``."""
    return 1 + max(frame_samples, min_samples) // HOP_SAMPLES


@dataclass(frozen=True)
class OverlappingFrames:
    """Some frames of a waveform.

    Attributes:
        frontend: the model's front end.
        samples: excerpt (m,) of the waveform that the frames lie in.
        starts: first samples of the frames (k,), int64, in order, on the device of ``samples``.
        frame_samples: length of every frame.
        min_samples: shorter frames get zeros appended up to here.
        statistics: the log-mels are normalised with these.
    """

    frontend: LogMelFrontend
    samples: torch.Tensor
    starts: torch.Tensor
    frame_samples: int
    min_samples: int
    statistics: Statistics

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, which: torch.Tensor) -> OverlappingFrames:
        return replace(self, starts=self.starts[which])

    @property
    def n_columns(self) -> int:
        """Log-mel columns T of a frame."""
        return n_frame_columns(self.frame_samples, self.min_samples)

    @property
    def last_inner(self) -> int:
        """The last column whose window lies within its frame."""
        return (self.frame_samples - _REACH) // HOP_SAMPLES

    @property
    def can_share(self) -> bool:
        """Whether there are columns that depend on the samples under their windows alone."""
        return (
            isinstance(self.frontend, TorchFrontend)
            and self.frame_samples >= self.min_samples
            and self.last_inner >= FIRST_INNER
        )

    def log_mels(self) -> torch.Tensor:
        """Normalised log-mels (k, 64, T): equal to those of frames cut first, up to rounding."""
        if not self.can_share:
            offsets = torch.arange(self.frame_samples, device=self.samples.device)
            frames = self.samples[self.starts[:, None] + offsets]
            missing = max(0, self.min_samples - self.frame_samples)
            return self._normalized(self.frontend(F.pad(frames, (0, missing))))
        inner = torch.arange(FIRST_INNER, self.last_inner + 1, device=self.samples.device)
        firsts, which = torch.unique(self.starts[:, None] + inner * HOP_SAMPLES, return_inverse=True)
        left, right = self.edge_columns()
        return torch.cat([left, self.columns_at(firsts)[which], right], dim=1).transpose(1, 2)

    def columns_at(self, centres: torch.Tensor) -> torch.Tensor:
        """Normalised columns (N, 64) with windows centred on these samples (N,) of the samples."""
        windows = self.samples.unfold(0, WINDOW_SAMPLES, 1)[centres - _REACH]
        return self._columns(windows)

    def edge_columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised first and last columns (k, c, 64) of every frame, where samples are reflected."""
        device = self.samples.device
        outer = torch.cat(
            [
                torch.arange(FIRST_INNER, device=device),
                torch.arange(self.last_inner + 1, self.n_columns, device=device),
            ]
        )
        offsets = torch.arange(-_REACH, WINDOW_SAMPLES - _REACH, device=device)
        end = self.frame_samples - 1
        within = end - (end - (outer[:, None] * HOP_SAMPLES + offsets).abs()).abs()
        windows = self.samples[self.starts[:, None, None] + within]
        columns = self._columns(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
        return columns[:, :FIRST_INNER], columns[:, FIRST_INNER:]

    def _columns(self, windows: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.frontend, TorchFrontend)
        return self._normalized(self.frontend.log_mel_of_windows(windows))

    def _normalized(self, log_mel: torch.Tensor) -> torch.Tensor:
        return (log_mel - self.statistics.mean) / self.statistics.std
