"""Approximate timestamp embeddings: encoder steps of the whole clip, computed once and pooled per frame.

It differs from the exact mode in two ways. The receptive field of a step reaches beyond its frame, where
the exact mode has the frame's own padding. And a frame starts at the nearest encoder step (80 ms for
``default``, 160 ms for ``resnetish34``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from serab_byols.frontend import HOP_SAMPLES
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.runners import PooledRunner

_FRAMES_AT_ONCE = 64


def dense_frames(
    runner: PooledRunner, log_mel: torch.Tensor, grid: FrameGrid, n_frames: int, frame_columns: int
) -> Iterator[torch.Tensor]:
    """Embeddings (k, D) of the frames of a padded clip, in order.

    Args:
        runner: of a convolutional encoder.
        log_mel: normalised, of the padded clip (64, T).
        grid: the frames; their starts are rounded to whole steps.
        n_frames: of the clip.
        frame_columns: log-mel columns of one frame.
    """
    width = runner.n_steps(frame_columns)
    n_steps = runner.n_steps(log_mel.shape[1])
    starts = torch.from_numpy(grid.starts(0, n_frames)).double() / (HOP_SAMPLES * runner.stride)
    firsts = starts.round().long().clamp(max=max(0, n_steps - width))
    buffer, offset, done = None, 0, 0
    for chunk in runner.steps(log_mel[None]):
        steps = chunk[0].float()
        buffer = steps if buffer is None else torch.cat([buffer, steps])
        n_ready = int(torch.searchsorted(firsts, offset + len(buffer) - width, right=True))
        for first in range(done, n_ready, _FRAMES_AT_ONCE):
            block = firsts[first : min(first + _FRAMES_AT_ONCE, n_ready)] - offset
            yield _pooled(buffer[int(block[0]) : int(block[-1]) + width], block - block[0], width)
        done = n_ready
        # Where frames lie far apart, the next one may start after the buffer's end.
        keep = min(int(firsts[done]) - offset, len(buffer)) if done < n_frames else len(buffer)
        buffer, offset = buffer[keep:], offset + keep


def _pooled(steps: torch.Tensor, firsts: torch.Tensor, width: int) -> torch.Tensor:
    """Mean plus maximum (k, D) over ``width`` steps (t, D) from each of ``firsts`` (k,)."""
    windows = steps.unfold(0, width, 1)  # (t - width + 1, D, width), a view
    pooled = windows.mean(dim=2) + windows.amax(dim=2)
    return pooled[firsts.to(steps.device)]
