"""The audio that modules are validated with: made from a seed, mono, float32, within [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_LEVELS = (1.0, 0.1, 0.5, 0.01)
_FLOOR = 1e-3
_BURST = 0.5
BURST_MS = 20.0


def noise_clips(n_samples: int, n_clips: int) -> torch.Tensor:
    """Clips (n_clips, n_samples) of noise, of different levels, so that shared statistics are seen."""
    noise = _noise((n_clips, n_samples), seed=n_samples)
    levels = torch.tensor([_LEVELS[i % len(_LEVELS)] for i in range(n_clips)])
    return noise * levels[:, None]


def clip_with_bursts(rate_hz: int, length_s: float, times_ms: Sequence[float]) -> torch.Tensor:
    """Faint noise (n_samples,) with a burst of loud noise of 20 ms around each of the times."""
    audio = _FLOOR * _noise((int(length_s * rate_hz),), seed=0)
    n_burst = round(BURST_MS / 1000 * rate_hz)
    burst = _BURST * _noise((n_burst,), seed=1)
    for time_ms in times_ms:
        first = round(time_ms / 1000 * rate_hz - n_burst / 2)
        audio[first : first + n_burst] += burst
    return audio


def _noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float32) - 1
