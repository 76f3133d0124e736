"""Many numbers at a glance: a line of small bars."""

from __future__ import annotations

import numpy as np

_BARS = "▁▂▃▄▅▆▇█"


def value_sketch(values: np.ndarray, most: int = 64) -> str:
    """Finite numbers (n,) as characters, from the lowest bar for the smallest to a full one for the largest.

    Neighbours are averaged where there are more than ``most``.

    Example:
        >>> value_sketch(np.array([0.0, 1.0, 3.0, 7.0, 3.0]))
        '▁▂▄█▄'
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return ""
    means = np.array([part.mean() for part in np.array_split(finite, min(len(finite), most))])
    spread = np.ptp(means)
    heights = (means - means.min()) / spread if spread > 0 else np.zeros_like(means)
    return "".join(_BARS[round(height * (len(_BARS) - 1))] for height in heights.tolist())
