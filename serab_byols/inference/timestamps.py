"""Timestamp embeddings: one vector a frame, of clips in memory or in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import torch

from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES
from serab_byols.inference.dense import dense_frames
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.overlapping_frames import OverlappingFrames, n_frame_columns
from serab_byols.inference.runners import PooledRunner, Runner, make_runner
from serab_byols.inference.streaming import (
    Blocks,
    BlockSource,
    split_into_blocks,
    stream_frames,
    stream_log_mel,
)
from serab_byols.model import ByolsModel
from serab_byols.normalization import Normalization, RunningStatistics, Statistics, shares_statistics

_COLUMNS_AT_ONCE = 16000
"""Log-mel columns of the frames that are cut together: what they share is computed once among them."""

_EmbedFrames = Callable[[BlockSource, Statistics], Iterator[torch.Tensor]]


class FrameEmbedder:
    """Embeds overlapping frames with the weights that the model has now.

    Args:
        model: read, never changed.
        grid: length and hop of the frames.
        dense: approximate embeddings, see :mod:`serab_byols.inference.dense`.

    Raises:
        InvalidInputError: ``dense`` with an encoder that cannot do it.
    """

    def __init__(self, model: ByolsModel, grid: FrameGrid, *, dense: bool = False) -> None:
        self.model = model
        self.grid = grid
        runner = make_runner(model)
        self._embed: _EmbedFrames = (
            partial(_embed_dense, _pooled_runner(runner, model), model, grid)
            if dense
            else partial(_embed_exact, runner, model, grid)
        )

    def __call__(self, clips: list[torch.Tensor], out: Iterable[torch.Tensor]) -> None:
        """Write the embeddings of each waveform's frames (n_i,) into its tensor (T_i, D) of ``out``."""
        sources: list[BlockSource] = [partial(split_into_blocks, clip) for clip in clips]
        shared = self._shared_statistics(sources) if shares_statistics(self._rule) else None
        for source, result in zip(sources, out):
            n_done = 0
            for block in self.stream(source, shared or self.measure(source)[0]):
                result[n_done : n_done + len(block)] = block
                n_done += len(block)

    def measure(self, source: BlockSource) -> tuple[Statistics, int]:
        """Statistics for normalising one waveform, and its number of samples, in one pass over it.

        The normalisation must be ``"clip"`` or fixed statistics.
        """
        blocks = _CountedBlocks(source())
        if isinstance(self._rule, Statistics):
            for _ in blocks:
                pass
            return self._rule, blocks.n_samples
        running = RunningStatistics()
        for log_mel in stream_log_mel(self.model.frontend, blocks, self.model.min_samples):
            running.update(log_mel)
        return running.statistics, blocks.n_samples

    def stream(self, source: BlockSource, statistics: Statistics) -> Iterator[torch.Tensor]:
        """Embeddings (k, D), float32, of the frames of a waveform in blocks, in order, some at a time."""
        return self._embed(source, statistics)

    @property
    def _rule(self) -> Normalization:
        return self.model.resolved_normalization

    def _shared_statistics(self, sources: list[BlockSource]) -> Statistics:
        """Mean and std over the log-mels of all frames of the call, as in the published implementation.

        The rule ``"hear2021"`` divides both by the number of frames.
        """
        running, n_frames = RunningStatistics(), 0
        for source in sources:
            for frames in cut_frames(source, self.model, self.grid, Statistics(0.0, 1.0)):
                running.update(frames.log_mels())
                n_frames += len(frames)
        if self._rule == "batch" or not n_frames:
            return running.statistics
        mean, std = running.statistics
        return Statistics(mean / n_frames, std / n_frames)


def cut_frames(
    source: BlockSource, model: ByolsModel, grid: FrameGrid, statistics: Statistics
) -> Iterator[OverlappingFrames]:
    """Frames of a waveform in blocks, in order, so many at a time that memory is bounded."""
    n_sharing = _COLUMNS_AT_ONCE // n_frame_columns(grid.frame_samples, model.min_samples)
    # Frames that lie far apart must not keep the recording between them in memory.
    n_in_reach = int(_COLUMNS_AT_ONCE * HOP_SAMPLES / grid.hop_samples)
    for samples, starts in stream_frames(source(), grid, max(1, min(n_sharing, n_in_reach))):
        yield OverlappingFrames(
            frontend=model.frontend,
            samples=samples,
            starts=starts.to(samples.device),
            frame_samples=grid.frame_samples,
            min_samples=model.min_samples,
            statistics=statistics,
        )


def _embed_exact(
    runner: Runner, model: ByolsModel, grid: FrameGrid, source: BlockSource, statistics: Statistics
) -> Iterator[torch.Tensor]:
    for frames in cut_frames(source, model, grid, statistics):
        yield runner.embed_frames(frames)


def _embed_dense(
    runner: PooledRunner, model: ByolsModel, grid: FrameGrid, source: BlockSource, statistics: Statistics
) -> Iterator[torch.Tensor]:
    blocks = _CountedBlocks(source())
    before, after = torch.zeros(grid.frame_samples, device=model.device).tensor_split(
        [grid.pad_before_samples]
    )
    log_mel = torch.cat(
        list(stream_log_mel(model.frontend, chain([before], blocks, [after]), model.min_samples)), dim=1
    )
    log_mel = (log_mel - statistics.mean) / statistics.std
    frame_columns = n_frame_columns(grid.frame_samples, model.min_samples)
    yield from dense_frames(runner, log_mel, grid, grid.n_frames(blocks.n_samples), frame_columns)


def _pooled_runner(runner: Runner, model: ByolsModel) -> PooledRunner:
    if not isinstance(runner, PooledRunner):
        raise InvalidInputError(
            "dense=True is for the convolutional encoders ('default' and 'resnetish34', unmodified), "
            f"not for {model.encoder.name!r}"
        )
    return runner


class _CountedBlocks:
    """Blocks of a waveform, counting the samples that have been read."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.n_samples = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for block in self._blocks:
            self.n_samples += len(block)
            yield block
