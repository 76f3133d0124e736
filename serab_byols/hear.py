"""Embeddings by the HEAR 2021 common API (arXiv 2203.03022, appendix B)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.runners import computing, make_runner
from serab_byols.inference.streaming import BLOCK_SAMPLES, blocks_of, stream_log_mel
from serab_byols.inference.timestamps import BlockSource, frame_batches, frame_embeddings
from serab_byols.inference.waveforms import AudioBatch, as_clips
from serab_byols.model import ByolsModel
from serab_byols.normalization import (
    Normalization,
    RunningStatistics,
    Statistics,
    averaged_statistics,
    per_clip_statistics,
)

FRAME_DURATION_MS = 1000.0
HOP_SIZE_MS = 50.0

_BATCH_SAMPLES = 60 * 16000
"""Samples whose log-mels are computed together; bounds memory."""


def get_scene_embeddings(audio: AudioBatch, model: ByolsModel) -> torch.Tensor:
    """One embedding a clip.

    The model is used as in eval mode and left as it was. With ``normalization`` ``"clip"`` or fixed
    numbers an embedding depends on its clip alone.

    Args:
        audio: (n_clips, n_samples), or a list of (n_samples,) of any lengths: float tensors or
            arrays, mono at ``model.sample_rate``, nominally in [-1, 1] (beyond is allowed).
        model: from :func:`load_model` or :func:`create_model`.

    Returns:
        (n_clips, D) float32, detached, on the model's device.

    Raises:
        InvalidInputError: audio of another shape or type, an empty clip, NaN or infinity.
    """
    with computing():
        clips = as_clips(audio, model.device)
        rule = model.resolved_normalization
        shared = None
        if rule in ("batch", "hear2021") and clips:
            shared = averaged_statistics(scene_log_mel([clip], model) for clip in clips)
        runner = make_runner(model)
        embeddings = torch.empty(len(clips), model.scene_embedding_size, device=model.device)
        for groups in _batches(clips):
            log_mels = []
            for indices in groups:
                log_mel = scene_log_mel([clips[i] for i in indices], model)
                mean, std = _statistics(rule, log_mel) if shared is None else shared
                log_mels.append((log_mel - mean) / std)
            for indices, embedded in zip(groups, runner.of_many(log_mels)):
                embeddings[indices] = embedded
        return embeddings


def embed_scene_stream(source: BlockSource, model: ByolsModel) -> torch.Tensor:
    """Scene embedding (D,) of one clip that passes by in blocks; only its log-mel is kept.

    That is 92 MB an hour. The rule must be ``"clip"`` or fixed statistics.
    """
    log_mel = torch.cat(list(stream_log_mel(model.frontend, source(), model.min_samples)), dim=1)[None]
    mean, std = _statistics(model.resolved_normalization, log_mel)
    return make_runner(model)((log_mel - mean) / std)[0]


def scene_log_mel(clips: list[torch.Tensor], model: ByolsModel) -> torch.Tensor:
    """Log-mels (B, 64, T) of clips of equal length; a long one goes through in blocks."""
    if len(clips[0]) > BLOCK_SAMPLES:
        front, least = model.frontend, model.min_samples
        return torch.stack(
            [torch.cat(list(stream_log_mel(front, blocks_of(clip), least)), dim=1) for clip in clips]
        )
    return model.frontend(model.pad_short(torch.stack(clips)))


def _statistics(
    rule: Normalization, log_mel: torch.Tensor
) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """Fixed numbers as they are, else those of each clip of (B, 64, T)."""
    return rule if isinstance(rule, Statistics) else per_clip_statistics(log_mel)


def _batches(clips: list[torch.Tensor]) -> Iterator[list[list[int]]]:
    """Indices of clips, those of equal length together, so many at a time that memory stays bounded."""
    by_length: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        by_length.setdefault(len(clip), []).append(i)
    batch: list[list[int]] = []
    n_held = 0
    for n_samples, indices in sorted(by_length.items()):
        size = max(1, _BATCH_SAMPLES // n_samples)
        for first in range(0, len(indices), size):
            group = indices[first : first + size]
            if batch and n_held + len(group) * n_samples > _BATCH_SAMPLES:
                yield batch
                batch, n_held = [], 0
            batch.append(group)
            n_held += len(group) * n_samples
    if batch:
        yield batch


def get_timestamp_embeddings(
    audio: AudioBatch,
    model: ByolsModel,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    *,
    dense: bool = False,
) -> tuple[torch.Tensor, torch.Tensor] | tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Embeddings of overlapping frames, every ``hop_size`` milliseconds.

    Frames are centred on their timestamps; before its start and after its end a clip counts as
    silent. Timestamps run from 0 to the clip's end at exact multiples of the hop.

    Args:
        audio: as for :func:`get_scene_embeddings`.
        model: from :func:`load_model` or :func:`create_model`.
        frame_duration: length of a frame in milliseconds.
        hop_size: distance between frames in milliseconds; need not be whole samples.
        dense: approximate, at a fraction of the cost: the features of the whole clip once, pooled per
            frame. For ``default`` and ``resnetish34``; see :mod:`serab_byols.inference.dense`.

    Returns:
        Embeddings (n_clips, T, D) and timestamps (n_clips, T) in milliseconds, float32, detached, on
        the model's device. For clips of different lengths, two lists with a tensor a clip:
        (T_i, D) and (T_i,).

    Raises:
        InvalidInputError: as for :func:`get_scene_embeddings`; a frame or hop below one sample;
            ``dense`` with another encoder.
    """
    grid = FrameGrid(frame_duration, hop_size, model.sample_rate)
    with computing():
        clips = as_clips(audio, model.device)
        lengths = {len(clip) for clip in clips}
        if not clips and isinstance(audio, (torch.Tensor, np.ndarray)):
            lengths = {audio.shape[1]}
        if len(lengths) == 1:
            n_frames = grid.n_frames(lengths.pop())
            stacked = torch.empty(len(clips), n_frames, model.timestamp_embedding_size, device=model.device)
            _embed_frames(clips, list(stacked), model, grid, dense)
            return stacked, _timestamps(grid, n_frames, model).repeat(len(clips), 1)
        counts = [grid.n_frames(len(clip)) for clip in clips]
        embeddings = [
            torch.empty(count, model.timestamp_embedding_size, device=model.device) for count in counts
        ]
        _embed_frames(clips, embeddings, model, grid, dense)
        return embeddings, [_timestamps(grid, count, model) for count in counts]


def _timestamps(grid: FrameGrid, n_frames: int, model: ByolsModel) -> torch.Tensor:
    return torch.from_numpy(grid.timestamps_ms(n_frames)).to(model.device)


def _embed_frames(
    clips: list[torch.Tensor], results: list[torch.Tensor], model: ByolsModel, grid: FrameGrid, dense: bool
) -> None:
    """Write the embeddings of each clip's frames into its result (T, D)."""
    rule = _frame_rule(clips, model, grid)
    runner = make_runner(model)
    for clip, result in zip(clips, results):
        done = 0
        for block in frame_embeddings(partial(blocks_of, clip), model, runner, grid, rule, dense):
            result[done : done + len(block)] = block
            done += len(block)


def _frame_rule(clips: list[torch.Tensor], model: ByolsModel, grid: FrameGrid) -> Normalization:
    """The rule for frames, with the rules of the published implementation replaced by their numbers.

    Those take the mean and std over the log-mels of all frames of the call; ``"hear2021"`` then
    divides both by the number of frames.
    """
    rule = model.resolved_normalization
    if rule not in ("batch", "hear2021") or not clips:
        return rule
    running = RunningStatistics()
    for clip in clips:
        for frames in frame_batches(partial(blocks_of, clip), model, grid, Statistics(0.0, 1.0)):
            running.update(frames.log_mels())
    mean, std = running.statistics
    if rule == "batch":
        return running.statistics
    n_frames = sum(grid.n_frames(len(clip)) for clip in clips)
    return Statistics(mean / n_frames, std / n_frames)
