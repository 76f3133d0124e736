"""Log-mels of overlapping frames, each column that frames share computed once.

Cutting frames first would transform every stretch of sound once for each frame that holds it, 20
times at the default hop. But a column of a frame's log-mel depends on the 400 samples under its window
alone; only the columns at a frame's edges, whose windows reach into the reflected padding, are the
frame's own. So interior columns are computed once for every position on the clip, whatever the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from serab_byols.frontend import HOP_SAMPLES, WINDOW_SAMPLES, LogMelFrontend, TorchFrontend

_REACH = WINDOW_SAMPLES // 2


def frame_log_mels(
    front: LogMelFrontend, stretch: torch.Tensor, starts: torch.Tensor, frame_samples: int, min_samples: int
) -> torch.Tensor:
    """Log-mels (k, 64, T) of the frames of a stretch (m,) that start at ``starts`` (k,).

    Frames of less than ``min_samples`` get zeros appended. Equal to cutting the frames first, but
    for rounding.
    """
    starts = starts.to(stretch.device)
    first = -(-_REACH // HOP_SAMPLES)
    last = (frame_samples - _REACH) // HOP_SAMPLES
    if last < first or frame_samples < min_samples or not isinstance(front, TorchFrontend):
        offsets = torch.arange(frame_samples, device=stretch.device)
        frames = stretch[starts[:, None] + offsets]
        return front(F.pad(frames, (0, max(0, min_samples - frame_samples))))
    n_columns = 1 + frame_samples // HOP_SAMPLES
    inner = torch.arange(first, last + 1, device=stretch.device)
    outer = torch.cat(
        [
            torch.arange(first, device=stretch.device),
            torch.arange(last + 1, n_columns, device=stretch.device),
        ]
    )
    log_mels = stretch.new_empty(len(starts), n_columns, front.mel_fb.shape[1], dtype=front.dtype)
    log_mels[:, first : last + 1] = _shared_columns(front, stretch, starts, inner)
    log_mels[:, outer] = _edge_columns(front, stretch, starts, outer, frame_samples)
    return log_mels.transpose(1, 2)


def _shared_columns(
    front: TorchFrontend, stretch: torch.Tensor, starts: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Columns (k, c, 64) whose windows lie within their frames."""
    firsts = starts[:, None] + columns * HOP_SAMPLES - _REACH
    positions, which = torch.unique(firsts, return_inverse=True)
    windows = stretch.unfold(0, WINDOW_SAMPLES, 1)[positions]
    return front.log_mel_of_windows(windows)[which]


def _edge_columns(
    front: TorchFrontend,
    stretch: torch.Tensor,
    starts: torch.Tensor,
    columns: torch.Tensor,
    frame_samples: int,
) -> torch.Tensor:
    """Columns (k, c, 64) whose windows reach past their frames, where samples are reflected."""
    offsets = torch.arange(-_REACH, WINDOW_SAMPLES - _REACH, device=stretch.device)
    within = (columns[:, None] * HOP_SAMPLES + offsets).abs()
    end = frame_samples - 1
    within = end - (end - within).abs()
    windows = stretch[starts[:, None, None] + within]
    return front.log_mel_of_windows(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
