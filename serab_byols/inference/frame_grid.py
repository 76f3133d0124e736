"""Where the frames of timestamp embeddings start, and their timestamps.

Frame ``k`` is centred on ``k * hop`` from the start of the clip. The clip is zero-padded by half a
frame before its start and after its end, so that the first frame is centred on time 0 and the last
one no later than the end.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass

import numpy as np

from serab_byols.errors import InvalidInputError

MS_PER_S = 1000.0
MAX_MS = 3_600_000.0


@dataclass(frozen=True)
class FrameGrid:
    """Frame length and hop of timestamp embeddings, at a sample rate.

    Args:
        frame_ms: length of a frame in milliseconds; the nearest whole number of samples is used.
        hop_ms: distance between frame centres in milliseconds; need not be whole samples.
        sample_rate_hz: samples per second.

    Raises:
        InvalidInputError: the frame or the hop is not a number from one sample to an hour.

    Example:
        >>> grid = FrameGrid(frame_ms=1000, hop_ms=50, sample_rate_hz=16000)
        >>> grid.frame_samples, grid.n_frames(16000)
        (16000, 21)
        >>> grid.timestamps_ms(3).tolist()
        [0.0, 50.0, 100.0]
    """

    frame_ms: float
    hop_ms: float
    sample_rate_hz: int

    def __post_init__(self) -> None:
        for name, value_ms in (("frame_duration", self.frame_ms), ("hop_size", self.hop_ms)):
            if isinstance(value_ms, bool) or not isinstance(value_ms, (int, float, np.number)):
                raise InvalidInputError(
                    f"{name} must be a number of milliseconds, got {type(value_ms).__name__}"
                )
            if not MS_PER_S / self.sample_rate_hz <= value_ms <= MAX_MS:  # so written, NaN fails too
                raise InvalidInputError(
                    f"{name} must be a finite number of milliseconds, at least one sample "
                    f"({MS_PER_S / self.sample_rate_hz} ms) and at most an hour, got {reprlib.repr(value_ms)}"
                )

    @property
    def frame_samples(self) -> int:
        """Length of a frame, rounded to the nearest sample (truncation would lose one at 1001 ms)."""
        return round(float(self.frame_ms) * self.sample_rate_hz / MS_PER_S)

    @property
    def hop_samples(self) -> float:
        """Distance between frame centres; may have a fractional part."""
        return float(self.hop_ms) * self.sample_rate_hz / MS_PER_S

    @property
    def pad_before_samples(self) -> int:
        """Zeros before the clip, so that frame 0 is centred on its first sample."""
        return self.frame_samples // 2

    @property
    def pad_after_samples(self) -> int:
        """Zeros after the clip."""
        return self.frame_samples - self.pad_before_samples

    def n_frames(self, n_samples: int) -> int:
        """Number of frames of a clip: those whose centre does not lie past its end."""
        if n_samples < 0:
            return 0
        n_frames = math.floor(n_samples / self.hop_samples) + 1
        # The quotient is rounded, so the last candidate is checked against the grid itself.
        return n_frames - 1 if (n_frames - 1) * self.hop_samples > n_samples else n_frames

    def starts(self, first: int, last: int) -> np.ndarray:
        """First samples in the padded clip of frames ``first`` to ``last - 1``, int64, half to even."""
        return np.rint(np.arange(first, last) * self.hop_samples).astype(np.int64)

    def timestamps_ms(self, n_frames: int) -> np.ndarray:
        """Centres of the first frames in milliseconds, float32 (n_frames,), exact multiples of the hop."""
        return (np.arange(n_frames) * float(self.hop_ms)).astype(np.float32)
