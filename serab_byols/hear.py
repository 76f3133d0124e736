"""Embeddings by the HEAR 2021 common API (arXiv 2203.03022, appendix B)."""

from __future__ import annotations

import numpy as np
import torch

from serab_byols.inference.context import inference_context
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.scenes import SceneEmbedder
from serab_byols.inference.timestamps import FrameEmbedder
from serab_byols.inference.waveforms import AudioBatch, to_waveforms
from serab_byols.model import ByolsModel

FRAME_DURATION_MS = 1000.0
HOP_SIZE_MS = 50.0


def get_scene_embeddings(audio: AudioBatch, model: ByolsModel) -> torch.Tensor:
    """One embedding per clip.

    The model is used in eval mode and left as it was. With ``normalization`` ``"clip"`` or fixed
    numbers an embedding depends on its clip alone. Attention of ``cvt`` sees windows of at most ten minutes.

    Args:
        audio: (n_clips, n_samples), or a list of (n_samples,) of any lengths: float tensors or
            arrays, mono at ``model.sample_rate``, nominally in [-1, 1] (beyond is allowed).
        model: from :func:`load_model` or :func:`create_model`.

    Returns:
        (n_clips, D) float32, detached, on the model's device.

    Raises:
        InvalidInputError: audio of another shape or type, an empty clip, NaN or infinity.

    Example:
        >>> model = serab_byols.load_model()
        >>> clips = [torch.zeros(16000), torch.zeros(8000)]  # 1 s and 0.5 s of silence
        >>> serab_byols.get_scene_embeddings(clips, model).shape
        torch.Size([2, 512])
    """
    with inference_context():
        clips = to_waveforms(audio, model.device)
        return SceneEmbedder(model)(clips)


def get_timestamp_embeddings(
    audio: AudioBatch,
    model: ByolsModel,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    *,
    dense: bool = False,
) -> tuple[torch.Tensor, torch.Tensor] | tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Embeddings of overlapping frames, every ``hop_size`` milliseconds.

    Frames are centred on their timestamps; the clip is zero-padded at both ends. Timestamps run from 0
    to the clip's end at exact multiples of the hop.

    Args:
        audio: as for :func:`get_scene_embeddings`.
        model: from :func:`load_model` or :func:`create_model`.
        frame_duration: length of a frame in milliseconds.
        hop_size: distance between frames in milliseconds; need not be whole samples.
        dense: approximate embeddings at a fraction of the cost, for ``default`` and ``resnetish34``; see
            :mod:`serab_byols.inference.dense`.

    Returns:
        Embeddings (n_clips, T, D) and timestamps (n_clips, T) in milliseconds, float32, detached, on
        the model's device. For clips of different lengths, two lists with one
        tensor per clip: (T_i, D) and (T_i,).

    Raises:
        InvalidInputError: as for :func:`get_scene_embeddings`; a frame or hop below one sample;
            ``dense`` with another encoder.

    Example:
        >>> model = serab_byols.load_model()
        >>> embeddings, timestamps = serab_byols.get_timestamp_embeddings(
        ...     torch.zeros(1, 16000), model, frame_duration=500, hop_size=250
        ... )
        >>> embeddings.shape, timestamps.tolist()
        (torch.Size([1, 5, 512]), [[0.0, 250.0, 500.0, 750.0, 1000.0]])
    """
    grid = FrameGrid(frame_duration, hop_size, model.sample_rate)
    with inference_context():
        clips = to_waveforms(audio, model.device)
        embedder = FrameEmbedder(model, grid, dense=dense)
        n_samples = _common_length(audio, clips)
        if n_samples is not None:
            stacked = _empty(model, len(clips), grid.n_frames(n_samples))
            embedder(clips, stacked)
            return stacked, _timestamps(grid, n_samples, model).repeat(len(clips), 1)
        embeddings = [_empty(model, grid.n_frames(len(clip))) for clip in clips]
        embedder(clips, embeddings)
        return embeddings, [_timestamps(grid, len(clip), model) for clip in clips]


def _common_length(audio: AudioBatch, clips: list[torch.Tensor]) -> int | None:
    """Samples of every clip, where they have equally many; an array without clips has a length, too."""
    if isinstance(audio, (torch.Tensor, np.ndarray)):
        return audio.shape[1]
    lengths = {len(clip) for clip in clips}
    return lengths.pop() if len(lengths) == 1 else None


def _timestamps(grid: FrameGrid, n_samples: int, model: ByolsModel) -> torch.Tensor:
    return torch.from_numpy(grid.timestamps_ms(grid.n_frames(n_samples))).to(model.device)


def _empty(model: ByolsModel, *shape: int) -> torch.Tensor:
    """Room for embeddings (*shape, D)."""
    size = (*shape, model.timestamp_embedding_size)
    return torch.empty(size, dtype=torch.float32, device=model.device)
