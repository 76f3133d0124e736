"""What the runners of all encoders have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from serab_byols.encoders.layer_geometry import in_chunks
from serab_byols.inference.overlapping_frames import OverlappingFrames


class Runner(ABC):
    """Normalised log-mel (B, 64, T) to embedding (B, D), both float32, any B and T.

    Attributes:
        columns_at_once: log-mel columns (clips times T) that go through the encoder together, so
            that activations stay near the cache and memory stays bounded.
    """

    columns_at_once: int = 3200

    def __call__(self, log_mel: torch.Tensor) -> torch.Tensor:
        size = max(1, self.columns_at_once // log_mel.shape[2])
        return torch.cat([self.run(batch).float() for batch in log_mel.split(size)])

    def embed_batches(self, log_mels: list[torch.Tensor]) -> list[torch.Tensor]:
        """Embeddings (b_i, D) of clips of different lengths, (b_i, 64, T_i)."""
        return [self(log_mel) for log_mel in log_mels]

    @abstractmethod
    def run(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, D) of a batch of at most ``columns_at_once``."""

    def embed_frames(self, frames: OverlappingFrames) -> torch.Tensor:
        """Embeddings (k, D), float32, of overlapping frames."""
        return self(frames.log_mels())


class ConvolutionRunner(Runner):
    """A runner of a convolutional encoder, which processes long clips in chunks.

    A chunk carries a halo on either side, as wide as the receptive field past its edge. Steps that depend on
    the halo's own zero padding are dropped, so chunks give the same steps as the whole clip.

    Attributes:
        stride: log-mel columns a step.
        halo_before, halo_after: columns, the former a multiple of ``stride``.
        chunk_columns: a clip longer than this is cut.
    """

    stride: int
    halo_before: int
    halo_after: int
    chunk_columns: int = 2400

    @abstractmethod
    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Steps (b, t, C) of log-mels (b, 64, T), edges zero-padded as the encoder does."""

    def steps(self, log_mel: torch.Tensor) -> Iterator[torch.Tensor]:
        """Steps (b, t_i, C) of log-mels (b, 64, T), chunk by chunk."""
        for chunk in in_chunks(log_mel.shape[2], self.chunk_columns, self.halo_before, self.halo_after):
            yield chunk.own(self.features(log_mel[:, :, chunk.first : chunk.last]), self.stride)


class PooledRunner(ConvolutionRunner):
    """A runner whose embedding is the mean plus the maximum of the steps."""

    @abstractmethod
    def n_steps(self, n_columns: int) -> int:
        """Number of steps of a log-mel with ``n_columns``."""

    def run(self, log_mel: torch.Tensor) -> torch.Tensor:
        total, peak, n_steps = None, None, 0
        for steps in self.steps(log_mel):
            chunk_total, chunk_peak = steps.float().sum(dim=1), steps.amax(dim=1).float()
            total = chunk_total if total is None else total + chunk_total
            peak = chunk_peak if peak is None else torch.maximum(peak, chunk_peak)
            n_steps += steps.shape[1]
        assert total is not None
        assert peak is not None
        return total / n_steps + peak


def as_image(log_mel: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(b, 64, T) to (b, 1, 64, T) with strides that say channels-last.

    With one channel both layouts have the same values at the same places in memory. A convolution chooses
    the layout of its output by the strides.
    """
    return log_mel.to(dtype).contiguous()[..., None].permute(0, 3, 1, 2)


def one_channel_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Convolution of (b, H, W) with kernels (C, 1, h, w), padding 1, as (b, H', W', C).

    As a matrix product: three times as fast on a CPU as torch's convolution of one channel.
    """
    padded = F.pad(x.to(weight.dtype), (1, 1, 1, 1))
    height, width = weight.shape[2:]
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (b, H', W', h, w), a view
    return F.linear(windows.flatten(3), weight.flatten(1), bias)


def max_pool_2x2(x: torch.Tensor) -> torch.Tensor:
    """The maximum of every 2x2 block, odd rows and columns left out; x is channels-last.

    ``F.max_pool2d`` also computes indices, which takes longer than the maximum itself.
    """
    rows = x.permute(0, 2, 3, 1)  # (b, M, T, C), contiguous
    n_mels, n_columns = rows.shape[1] // 2 * 2, rows.shape[2] // 2 * 2
    rows = torch.maximum(rows[:, 0:n_mels:2], rows[:, 1:n_mels:2])
    rows = torch.maximum(rows[:, :, 0:n_columns:2], rows[:, :, 1:n_columns:2])
    return rows.permute(0, 3, 1, 2)


def mel_major(x: torch.Tensor) -> torch.Tensor:
    """(B, C, M, T) to (B, T, M * C); see :func:`serab_byols.encoders.encoder.flatten_mel_major`."""
    return x.permute(0, 3, 2, 1).flatten(2)
