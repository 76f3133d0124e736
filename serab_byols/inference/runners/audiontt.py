"""AudioNTT for inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from serab_byols.encoders import AudioNTT
from serab_byols.encoders.encoder import mean_max
from serab_byols.inference.overlapping_frames import OverlappingFrames
from serab_byols.inference.runners.prepared_weights import fold_batch_norm
from serab_byols.inference.runners.runner import PooledRunner, as_image, max_pool_2x2, mel_major
from serab_byols.inference.runners.shared_steps import embed_in_groups, shared_steps

CONVOLVED_COLUMNS = 1000
"""Log-mel columns per convolution call, so that its output stays in the cache."""


class AudioNTTRunner(PooledRunner):
    """Three folded convolutions, each pooled before its ReLU, and the linear layers on every step.

    ReLU is monotonic, so it commutes with the maximum; after pooling there are a quarter
    of the values.
    """

    stride = 8
    halo_before = halo_after = (
        8  # the receptive field of three 3-wide convolutions at strides 1, 2, 4 reaches 7 columns
    )

    def __init__(self, encoder: AudioNTT) -> None:
        features: Any = encoder.features  # as built: convolutions at 0, 4, 8, norms at 1, 5, 9
        fc: Any = encoder.fc
        self._convolutions = [fold_batch_norm(features[i], features[i + 1]) for i in (0, 4, 8)]
        self._linears = [(fc[i].weight.detach(), fc[i].bias.detach()) for i in (0, 3)]

    def n_steps(self, n_columns: int) -> int:
        return n_columns // self.stride

    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        return self._linear(self._steps(log_mel))

    def embed_batches(self, log_mels: list[torch.Tensor]) -> list[torch.Tensor]:
        """The linear layers take the steps of all clips in one call: reading their weights costs most."""
        if len(log_mels) == 1 or max(log_mel.shape[2] for log_mel in log_mels) > self.chunk_columns:
            return super().embed_batches(log_mels)
        convolved = [self._steps(log_mel) for log_mel in log_mels]
        rows = self._linear(torch.cat([steps.flatten(0, 1) for steps in convolved]))
        of_clips = rows.float().split([steps.shape[0] * steps.shape[1] for steps in convolved])
        return [mean_max(part.unflatten(0, steps.shape[:2])) for part, steps in zip(of_clips, convolved)]

    def _steps(self, log_mel: torch.Tensor) -> torch.Tensor:
        """(b, T // 8, 512) of (b, 64, T)."""
        size = max(1, CONVOLVED_COLUMNS // log_mel.shape[2])
        return torch.cat([self._convolve(part) for part in log_mel.split(size)])

    def embed_frames(self, frames: OverlappingFrames) -> torch.Tensor:
        return embed_in_groups(frames, self._convolutions, self._shared, super().embed_frames)

    def _shared(self, frames: OverlappingFrames) -> torch.Tensor:
        shared, which, own = shared_steps(frames, self._convolutions)
        shared, own = self._linear(shared).float(), self._linear(own).float()
        total, peak = own.sum(dim=1), own.amax(dim=1)
        for step in which.unbind(dim=1):  # one step at a time: all at once would not stay in the cache
            of_frames = shared[step]
            total += of_frames
            peak = torch.maximum(peak, of_frames)
        return total / (which.shape[1] + own.shape[1]) + peak

    def _convolve(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = as_image(log_mel, self._linears[0][0].dtype)
        for weight, bias in self._convolutions:
            x = max_pool_2x2(F.conv2d(x, weight, bias, padding=1)).relu_()
        return mel_major(x)

    def _linear(self, x: torch.Tensor) -> torch.Tensor:
        for weight, bias in self._linears:
            x = F.linear(x, weight, bias).relu_()
        return x
