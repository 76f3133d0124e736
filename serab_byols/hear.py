"""Embeddings by the HEAR 2021 common API (arXiv 2203.03022, appendix B)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from serab_byols.clips import AudioBatch, as_clips
from serab_byols.framing import FrameGrid
from serab_byols.inference import Encode, computing, inference_encoder
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

_BATCH_SAMPLES = 16 * 16000
"""Samples that go through the model at a time; bounds memory and keeps activations near the cache."""


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
        clips = [model.pad_short(clip) for clip in as_clips(audio, model.device)]
        encode = inference_encoder(model)
        rule = model.resolved_normalization
        shared = None
        if rule in ("batch", "hear2021") and clips:
            shared = averaged_statistics(model.frontend(clip[None]) for clip in clips)
        embeddings = torch.empty(len(clips), model.scene_embedding_size, device=model.device)
        for indices in _same_length_batches(clips):
            log_mel = model.frontend(torch.stack([clips[i] for i in indices]))
            mean, std = _statistics(rule, log_mel) if shared is None else shared
            embeddings[indices] = encode((log_mel - mean) / std)
        return embeddings


def _statistics(
    rule: Normalization, log_mel: torch.Tensor
) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """Fixed numbers as they are, else those of each clip of (B, 64, T)."""
    return rule if isinstance(rule, Statistics) else per_clip_statistics(log_mel)


def _same_length_batches(clips: list[torch.Tensor]) -> Iterator[list[int]]:
    """Indices of clips of equal length, so many at a time that memory stays bounded."""
    by_length: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        by_length.setdefault(len(clip), []).append(i)
    for n_samples, indices in by_length.items():
        size = max(1, _BATCH_SAMPLES // n_samples)
        for first in range(0, len(indices), size):
            yield indices[first : first + size]


def get_timestamp_embeddings(
    audio: AudioBatch,
    model: ByolsModel,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
) -> tuple[torch.Tensor, torch.Tensor] | tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Embeddings of overlapping frames, every ``hop_size`` milliseconds.

    Frames are centred on their timestamps; before its start and after its end a clip counts as
    silent. Timestamps run from 0 to the clip's end at exact multiples of the hop.

    Args:
        audio: as for :func:`get_scene_embeddings`.
        model: from :func:`load_model` or :func:`create_model`.
        frame_duration: length of a frame in milliseconds.
        hop_size: distance between frames in milliseconds; need not be whole samples.

    Returns:
        Embeddings (n_clips, T, D) and timestamps (n_clips, T) in milliseconds, float32, detached, on
        the model's device. For clips of different lengths, two lists with a tensor a clip:
        (T_i, D) and (T_i,).

    Raises:
        InvalidInputError: as for :func:`get_scene_embeddings`; a frame or hop below one sample.
    """
    grid = FrameGrid(frame_duration, hop_size, model.sample_rate)
    with computing():
        clips = as_clips(audio, model.device)
        encode = inference_encoder(model)
        rule = _frame_statistics(clips, model, grid)
        embeddings = [_embed_frames(clip, model, encode, grid, rule) for clip in clips]
        timestamps = [torch.from_numpy(grid.timestamps_ms(len(clip))).to(model.device) for clip in clips]
        if len({len(clip) for clip in clips}) == 1:
            return torch.stack(embeddings), torch.stack(timestamps)
        if not clips and isinstance(audio, (torch.Tensor, np.ndarray)):
            n_frames = grid.n_frames(audio.shape[1])
            empty = torch.empty(0, n_frames, model.timestamp_embedding_size, device=model.device)
            return empty, empty[:, :, 0]
        return embeddings, timestamps


def _embed_frames(
    clip: torch.Tensor, model: ByolsModel, encode: Encode, grid: FrameGrid, rule: Normalization
) -> torch.Tensor:
    """Embeddings (T, D) of the frames of a clip (n,)."""
    mean, std = _clip_statistics(clip, model, rule)
    embeddings = torch.empty(grid.n_frames(len(clip)), model.timestamp_embedding_size, device=clip.device)
    first = 0
    for frames in _frame_blocks(clip, model, grid):
        last = first + len(frames)
        embeddings[first:last] = encode((model.frontend(frames) - mean) / std)
        first = last
    return embeddings


def _clip_statistics(
    clip: torch.Tensor, model: ByolsModel, rule: Normalization
) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """Fixed numbers, or those of the clip (n,) itself, not of its padded frames."""
    if isinstance(rule, Statistics):
        return rule
    return per_clip_statistics(model.frontend(model.pad_short(clip[None])))


def _frame_blocks(clip: torch.Tensor, model: ByolsModel, grid: FrameGrid) -> Iterator[torch.Tensor]:
    """The frames of a clip (n,), cut from the padded clip, as blocks (frames, samples)."""
    padded = F.pad(clip, (grid.pad_before_samples, grid.pad_after_samples))
    starts = grid.starts(len(clip))
    size = max(1, _BATCH_SAMPLES // max(grid.frame_samples, model.min_samples))
    offsets = torch.arange(grid.frame_samples, device=clip.device)
    for block in np.array_split(starts, range(size, len(starts), size)):
        indices = torch.from_numpy(block).to(clip.device)[:, None] + offsets
        yield model.pad_short(padded[indices])


def _frame_statistics(clips: list[torch.Tensor], model: ByolsModel, grid: FrameGrid) -> Normalization:
    """The rule for frames, with the rules of the published implementation replaced by their numbers.

    Those take the mean and std over the log-mels of all frames of the call; ``"hear2021"`` then
    divides both by the number of frames.
    """
    rule = model.resolved_normalization
    if rule not in ("batch", "hear2021") or not clips:
        return rule
    running = RunningStatistics()
    for clip in clips:
        for frames in _frame_blocks(clip, model, grid):
            running.update(model.frontend(frames))
    mean, std = running.statistics
    if rule == "batch":
        return running.statistics
    n_frames = sum(grid.n_frames(len(clip)) for clip in clips)
    return Statistics(mean / n_frames, std / n_frames)
