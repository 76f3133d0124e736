"""One row, or the rows of one recording, of what embedding a corpus gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Record:
    """The embedding of a file or a segment, or of all its frames.

    Attributes:
        file: name as given.
        start, end: seconds in the file: floats, or float64 (T,) for frames, where they are the
            frame's window cut to the segment.
        embedding: float32 (D,), or (T, D) for frames.
        time: centres of the frames in seconds, float64 (T,); None for scenes.
    """

    file: str
    start: float | np.ndarray
    end: float | np.ndarray
    embedding: np.ndarray
    time: np.ndarray | None = None
