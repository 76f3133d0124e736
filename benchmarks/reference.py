"""The straightforward implementation, which the library has to equal and to beat.

The plain encoder in eager float32, one clip at a time, every frame by itself, nothing shared and
nothing reused; the order of work is that of the published implementation. Normalisation is the rule
``"clip"``. Clips and frames must be long enough for the encoder (0.1 s is enough for all).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from serab_byols import ByolsModel
from serab_byols.normalization import STD_FLOOR

ENCODER_CHUNK_FRAMES = 512


@torch.no_grad()
def scene_embeddings(clips: torch.Tensor, model: ByolsModel) -> torch.Tensor:
    """Embeddings (B, D) of clips (B, n) at 16 kHz; the model is in eval mode, in float32."""
    embeddings = []
    for clip in clips:
        mean, std = clip_statistics(clip, model)
        log_mel = model.frontend(clip[None])  # for the second time, as published
        embeddings.append(model.encoder(((log_mel - mean) / std)[:, None]))
    return torch.cat(embeddings)


@torch.no_grad()
def timestamp_embeddings(
    clip: torch.Tensor, model: ByolsModel, frame_ms: float, hop_ms: float
) -> torch.Tensor:
    """Embeddings (T, D) of the frames of a clip (n,) at 16 kHz."""
    mean, std = clip_statistics(clip, model)
    log_mels = (model.frontend(cut_frames(clip, model, frame_ms, hop_ms)) - mean) / std  # (T, 64, t)
    return torch.cat([model.encoder(chunk[:, None]) for chunk in log_mels.split(ENCODER_CHUNK_FRAMES)])


def clip_statistics(clip: torch.Tensor, model: ByolsModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the log-mel of a clip (n,), not padded."""
    log_mel = model.frontend(clip[None])
    return log_mel.mean(), log_mel.std().clamp_min(STD_FLOOR)


def cut_frames(clip: torch.Tensor, model: ByolsModel, frame_ms: float, hop_ms: float) -> torch.Tensor:
    """All frames (T, frame samples) of a clip (n,): one around every multiple of the hop.

    Before its start and after its end the clip is silent. The hop is whole samples, or nearly.
    """
    frame_samples = round(frame_ms / 1e3 * model.sample_rate)
    hop_samples = hop_ms / 1e3 * model.sample_rate
    padded = F.pad(clip, (frame_samples // 2, frame_samples - frame_samples // 2))
    starts = np.rint(np.arange(int(len(clip) / hop_samples) + 1) * hop_samples).astype(int)
    return torch.stack([padded[start : start + frame_samples] for start in starts])
