"""Waveforms in blocks: log-mels and frames without the whole clip in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F

from serab_byols.frontend import HOP_SAMPLES, N_FFT, PAD_SAMPLES, LogMelFrontend, TorchFrontend
from serab_byols.inference.frame_grid import FrameGrid

BLOCK_SAMPLES = 30 * 16000
"""Half a minute."""

Blocks = Iterable[torch.Tensor]
"""Consecutive blocks (n_i,) of a waveform, float32, on the model's device."""

BlockSource = Callable[[], Blocks]
"""Returns the blocks from the beginning, every time it is called."""


def split_into_blocks(clip: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of a waveform (n,) that is in memory."""
    yield from clip.split(BLOCK_SAMPLES)


def stream_log_mel(frontend: LogMelFrontend, blocks: Blocks, min_samples: int) -> Iterator[torch.Tensor]:
    """Log-mel (64, t_i) of a waveform in blocks (n_i,), equal to that of the whole.

    A clip of less than ``min_samples`` gets zeros appended. Front ends other than ``"torch"`` take
    the whole waveform at once.
    """
    if not isinstance(frontend, TorchFrontend):
        yield frontend(_padded(torch.cat(list(blocks)), min_samples)[None])[0]
        return
    buffer: torch.Tensor | None = None
    started = False
    for block in blocks:
        buffer = block if buffer is None else torch.cat([buffer, block])
        if not started and len(buffer) > 2 * N_FFT:
            buffer = torch.cat([buffer[1 : PAD_SAMPLES + 1].flip(0), buffer])
            started = True
        n_columns = (len(buffer) - N_FFT) // HOP_SAMPLES if started else 0
        if n_columns > 0:
            # The last column that fits is held back, so that the samples to reflect stay in the buffer.
            yield frontend.log_mel_unpadded(buffer[None, : (n_columns - 1) * HOP_SAMPLES + N_FFT])[0]
            buffer = buffer[n_columns * HOP_SAMPLES :]
    assert buffer is not None
    if not started:
        yield frontend(_padded(buffer, min_samples)[None])[0]
        return
    buffer = torch.cat([buffer, buffer[-PAD_SAMPLES - 1 : -1].flip(0)])
    yield frontend.log_mel_unpadded(buffer[None])[0]


def _padded(clip: torch.Tensor, n_samples: int) -> torch.Tensor:
    return F.pad(clip, (0, max(0, n_samples - len(clip))))


def stream_frames(
    blocks: Blocks, grid: FrameGrid, frames_at_once: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Excerpts of a zero-padded waveform, each with the first samples of the frames that lie in it.

    Yields:
        Samples (m,) and frame starts (k,), int64, relative to them; in order, every frame once.
    """
    buffer: torch.Tensor | None = None
    n_samples = 0  # of the clip so far
    offset = 0  # of the buffer in the padded clip
    n_done = 0  # frames
    for block in blocks:
        if buffer is None:
            buffer = block.new_zeros(grid.pad_before_samples)
        buffer = torch.cat([buffer, block])
        n_samples += len(block)
        # Frames that end before the samples so far; they are part of the grid whatever follows.
        n_ready = grid.n_frames(offset + len(buffer) - grid.frame_samples - 1)
        while n_ready - n_done >= frames_at_once:
            starts = grid.starts(n_done, n_done + frames_at_once) - offset
            yield buffer[: int(starts[-1]) + grid.frame_samples], torch.from_numpy(starts)
            n_done += frames_at_once
            # Where frames lie far apart, the next one may start after the buffer's end.
            keep = min(int(grid.starts(n_done, n_done + 1)[0]) - offset, len(buffer))
            buffer, offset = buffer[keep:], offset + keep
    if buffer is None:
        return
    buffer = F.pad(buffer, (0, grid.pad_after_samples))
    n_frames = grid.n_frames(n_samples)
    for first in range(n_done, n_frames, frames_at_once):
        starts = grid.starts(first, min(first + frames_at_once, n_frames)) - offset
        head, tail = int(starts[0]), int(starts[-1]) + grid.frame_samples
        yield buffer[head:tail], torch.from_numpy(starts - head)
