"""Scene embeddings: one vector a clip."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from serab_byols.inference.runners import make_runner
from serab_byols.inference.streaming import BLOCK_SAMPLES, BlockSource, split_into_blocks, stream_log_mel
from serab_byols.model import ByolsModel
from serab_byols.normalization import (
    Normalization,
    Statistics,
    averaged_statistics,
    scene_statistics,
    shares_statistics,
)

_BATCH_SAMPLES = 60 * 16000
"""Samples whose log-mels are computed together; bounds memory."""


class SceneEmbedder:
    """Embeds whole clips with the weights that the model has now.

    Args:
        model: read, never changed.
    """

    def __init__(self, model: ByolsModel) -> None:
        self.model = model
        self._runner = make_runner(model)

    def __call__(self, clips: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n_clips, D), float32, of waveforms (n_i,) of any lengths."""
        model = self.model
        rule = _without_sharing(model.resolved_normalization, clips, model)
        embeddings = torch.empty(
            len(clips), model.scene_embedding_size, dtype=torch.float32, device=model.device
        )
        for groups in _batches(clips):
            log_mels = [_normalized(_log_mel([clips[i] for i in group], model), rule) for group in groups]
            for group, embedded in zip(groups, self._runner.embed_batches(log_mels)):
                embeddings[group] = embedded
        return embeddings

    def stream(self, source: BlockSource) -> torch.Tensor:
        """Embedding (D,) of one waveform in blocks, of which only the log-mel is kept, 92 MB an hour.

        The normalisation must be ``"clip"`` or fixed statistics.
        """
        model = self.model
        log_mel = torch.cat(list(stream_log_mel(model.frontend, source(), model.min_samples)), dim=1)
        return self._runner(_normalized(log_mel[None], model.resolved_normalization))[0]


def _without_sharing(rule: Normalization, clips: list[torch.Tensor], model: ByolsModel) -> Normalization:
    """The rule, with statistics that all clips share replaced by their values."""
    if not (shares_statistics(rule) and clips):
        return rule
    mean, std = averaged_statistics(_log_mel([clip], model) for clip in clips)
    return Statistics(float(mean), float(std))


def _normalized(log_mel: torch.Tensor, rule: Normalization) -> torch.Tensor:
    mean, std = scene_statistics(log_mel, rule)
    return (log_mel - mean) / std


def _log_mel(clips: list[torch.Tensor], model: ByolsModel) -> torch.Tensor:
    """Log-mels (B, 64, T) of clips of equal length; long clips are processed in blocks."""
    if len(clips[0]) <= BLOCK_SAMPLES:
        return model.frontend(model.pad_short(torch.stack(clips)))
    blocks = (stream_log_mel(model.frontend, split_into_blocks(clip), model.min_samples) for clip in clips)
    return torch.stack([torch.cat(list(of_clip), dim=1) for of_clip in blocks])


def _batches(clips: list[torch.Tensor]) -> Iterator[list[list[int]]]:
    """Batches of at most ``_BATCH_SAMPLES``, each as groups of indices of clips of equal length."""
    by_length: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        by_length.setdefault(len(clip), []).append(i)
    batch: list[list[int]] = []
    batch_samples = 0
    for n_samples, indices in sorted(by_length.items()):
        size = max(1, _BATCH_SAMPLES // n_samples)
        for first in range(0, len(indices), size):
            group = indices[first : first + size]
            if batch and batch_samples + len(group) * n_samples > _BATCH_SAMPLES:
                yield batch
                batch, batch_samples = [], 0
            batch.append(group)
            batch_samples += len(group) * n_samples
    if batch:
        yield batch
