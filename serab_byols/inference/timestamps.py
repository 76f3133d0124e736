"""Timestamp embeddings of one clip, in memory or passing by in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch

from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES
from serab_byols.inference.dense import dense_frames
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.overlapping_frames import FrameBatch
from serab_byols.inference.runners import PooledRunner, Runner
from serab_byols.inference.streaming import Blocks, stream_frames, stream_log_mel
from serab_byols.model import ByolsModel
from serab_byols.normalization import Normalization, RunningStatistics, Statistics

_COLUMNS_AT_ONCE = 16000
"""Log-mel columns of the frames that are cut together: what they share is computed once among them."""

BlockSource = Callable[[], Blocks]
"""Starts a waveform over: its blocks (n_i,), float32, on the model's device."""


def clip_statistics(source: BlockSource, model: ByolsModel) -> tuple[Statistics, int]:
    """Mean and std of a clip's own log-mel, and its number of samples, in one pass over it."""
    running = RunningStatistics()
    blocks = _Counted(source())
    for log_mel in stream_log_mel(model.frontend, blocks, model.min_samples):
        running.update(log_mel)
    return running.statistics, blocks.n_samples


def frame_batches(
    source: BlockSource, model: ByolsModel, grid: FrameGrid, statistics: Statistics
) -> Iterator[FrameBatch]:
    """A clip's frames, in order, so many at a time that memory is bounded."""
    together = _COLUMNS_AT_ONCE // _columns(model, grid)
    # Frames that lie apart must not keep the recording between them in memory.
    in_a_stretch = int(_COLUMNS_AT_ONCE * HOP_SAMPLES / grid.hop_samples)
    frames_at_once = max(1, min(together, in_a_stretch))
    for stretch, starts in stream_frames(source(), grid, frames_at_once):
        yield FrameBatch(
            front=model.frontend,
            stretch=stretch,
            starts=starts.to(stretch.device),
            frame_samples=grid.frame_samples,
            min_samples=model.min_samples,
            statistics=statistics,
        )


def frame_embeddings(
    source: BlockSource,
    model: ByolsModel,
    runner: Runner,
    grid: FrameGrid,
    rule: Normalization,
    dense: bool = False,
) -> Iterator[torch.Tensor]:
    """Embeddings (k, D), float32, of a clip's frames, in order, block by block.

    ``rule`` is fixed statistics or ``"clip"``, which takes a first pass over the clip.
    """
    statistics = rule if isinstance(rule, Statistics) else clip_statistics(source, model)[0]
    if dense:
        yield from _dense_embeddings(source, model, runner, grid, statistics)
        return
    for frames in frame_batches(source, model, grid, statistics):
        yield runner.frames(frames)


def dense_runner(model: ByolsModel, runner: Runner) -> PooledRunner:
    """The runner, if it can do dense frames.

    Raises:
        InvalidInputError: it cannot.
    """
    if not isinstance(runner, PooledRunner):
        raise InvalidInputError(
            "dense=True is for the convolutional encoders ('default' and 'resnetish34', as built), "
            f"not for {model.encoder.name!r}"
        )
    return runner


def _dense_embeddings(
    source: BlockSource, model: ByolsModel, runner: Runner, grid: FrameGrid, statistics: Statistics
) -> Iterator[torch.Tensor]:
    runner = dense_runner(model, runner)
    counted = _Counted(source())
    silence = torch.zeros(grid.pad_before_samples + grid.pad_after_samples, device=model.device)
    padded = chain([silence[: grid.pad_before_samples]], counted, [silence[grid.pad_before_samples :]])
    parts = stream_log_mel(model.frontend, padded, model.min_samples)
    log_mel = (torch.cat(list(parts), dim=1) - statistics.mean) / statistics.std
    n_frames = grid.n_frames(counted.n_samples)
    yield from dense_frames(runner, log_mel, grid, n_frames, _columns(model, grid))


def _columns(model: ByolsModel, grid: FrameGrid) -> int:
    """Log-mel columns of one frame."""
    return 1 + max(grid.frame_samples, model.min_samples) // HOP_SAMPLES


class _Counted:
    """Blocks that pass by, and how many samples they held."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.n_samples = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for block in self._blocks:
            self.n_samples += len(block)
            yield block
