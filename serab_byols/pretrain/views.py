"""Views of a batch of log-mels (arXiv 2103.06695, section III; 2204.07402 for the fader).

All random numbers are drawn on the CPU for the whole batch of all processes, and a process takes its
rows: the views of a crop depend on the seed and the step alone, not on the number of processes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from serab_byols.frontend import N_MELS, create_frontend
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.device_transfers import to_device
from serab_byols.pretrain.distributed import Share, gather
from serab_byols.pretrain.resize import bicubic_matrix
from serab_byols.pretrain.running_norm import Counting, RunningNorm, standardize_together

EPS = torch.finfo(torch.float32).eps
_EQUALIZER_COSINES = 4


class Draws:
    """Random numbers for the whole batch of a step, of which a process takes its rows."""

    def __init__(self, seed: int, step: int, share: Share, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(mixed_seed(seed, step))
        self._share = share
        self._device = device

    def uniform(self, *shape: int) -> torch.Tensor:
        """Float32 (b, *shape) in [0, 1) for a process's b crops."""
        return self._own(torch.rand(self._share.n_all, *shape, generator=self._generator))

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 (b, *shape)."""
        return self._own(torch.randn(self._share.n_all, *shape, generator=self._generator))

    def _own(self, drawn: torch.Tensor) -> torch.Tensor:
        return to_device(drawn[self._share.rows], self._device)


def mixed_seed(seed: int, step: int) -> int:
    """One seed from two numbers, so that neighbouring seeds share no step's draws."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) % (1 << 63)


class MixupMemory(Counting):
    """The latest crops, first in, first out; equal in all processes and saved in training checkpoints."""

    crops: torch.Tensor

    def __init__(self, size: int, n_columns: int) -> None:
        super().__init__()
        self.register_buffer("crops", torch.zeros(size, N_MELS, n_columns))

    def choose(self, u: torch.Tensor) -> torch.Tensor | None:
        """A crop for each of ``u`` (b,) in [0, 1), as (b, 64, T); None while there are none."""
        n_held = min(self.n_seen, len(self.crops))
        if not n_held:
            return None
        return self.crops[(u * n_held).long().clamp_max(n_held - 1)]

    def add(self, x: torch.Tensor) -> None:
        """Add every process's crops (b, 64, T)."""
        x = gather(x)[-len(self.crops) :]
        rows = (self.n_seen + torch.arange(len(x), device=x.device)) % len(self.crops)
        self.crops[rows] = x
        self.n_seen += len(x)


def log_mixup_exp(x: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The logarithm of a mixture of powers: ln((1 - share) e^x + share e^other + eps)."""
    return torch.log((1 - share) * x.exp() + share * other.exp() + EPS)


def random_resize_crop(x: torch.Tensor, draws: Draws, config: PretrainConfig) -> torch.Tensor:
    """A random part of (B, 64, T), resized to (B, 64, T).

    The part may reach past the ends in time: the input lies on a wider canvas of zeros, the mean.
    """
    _, n_mels, n_columns = x.shape
    canvas_columns = int(config.crop_virtual_time * n_columns)
    before = (canvas_columns - n_columns) // 2
    canvas = nn.functional.pad(x, (before, canvas_columns - n_columns - before))
    low, high = config.crop_scale
    scale = low + (high - low) * draws.uniform(2)
    height = (scale[:, 0] * n_mels).long().clamp(1, n_mels)
    width = (scale[:, 1] * n_columns).long().clamp(1, canvas_columns)
    corner = draws.uniform(2)
    top = (corner[:, 0] * (n_mels - height + 1)).long().minimum(n_mels - height)
    left = (corner[:, 1] * (canvas_columns - width + 1)).long().minimum(canvas_columns - width)
    rows = bicubic_matrix(top, height, n_mels, n_mels)
    columns = bicubic_matrix(left, width, canvas_columns, n_columns)
    return rows @ canvas @ columns.transpose(1, 2)


def random_linear_fader(x: torch.Tensor, draws: Draws, gain: float) -> torch.Tensor:
    """Add a ramp over time whose ends are uniform in [-gain, gain]."""
    head, tail = (gain * (2 * draws.uniform(2, 1, 1) - 1)).unbind(1)
    return x + head + (tail - head) * torch.linspace(0, 1, x.shape[-1], device=x.device)


def random_equalizer(x: torch.Tensor, draws: Draws, gain: float) -> torch.Tensor:
    """Add a smooth curve over the mel bands, as other microphones, rooms and levels would."""
    mel = torch.linspace(0, 1, x.shape[1], device=x.device)
    cosines = torch.stack([torch.cos(math.pi * k * mel) for k in range(_EQUALIZER_COSINES)])
    return x + (gain * draws.normal(_EQUALIZER_COSINES) @ cosines)[:, :, None]


class Views(nn.Module):
    """Waveforms to the inputs of the encoder: front end, running normalisation, augmentation, post-norm.

    Everything is computed in float32, whatever the precision of the training.

    Args:
        config: which augmentations, and whether there are fixed statistics.
        n_to_learn: crops after which the running statistics stay as they are.
    """

    def __init__(self, config: PretrainConfig, n_to_learn: int) -> None:
        super().__init__()
        self.config = config
        self.frontend = create_frontend("torch")
        self.norm = RunningNorm(n_to_learn, config.statistics)
        self.memory = MixupMemory(config.mixup_memory, config.n_columns)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor, draws: Draws) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Of waveforms (b, n_samples): ``n_views`` views (b, 1, 64, T), normalised log-mels (b, 64, T)."""
        with torch.autocast(waveforms.device.type, enabled=False):
            if self.config.silence_probability:
                waveforms = silence_ends(waveforms, draws, self.config.silence_probability)
            log_mel = self.norm(self.frontend(waveforms))
            views = self.augment(log_mel, draws)
            if self.config.post_norm:
                views = standardize_together(views)
        return [view[:, None] for view in views], log_mel

    @torch.no_grad()
    def augment(self, log_mel: torch.Tensor, draws: Draws) -> list[torch.Tensor]:
        """``n_views`` views, mixed with crops of earlier steps only, of normalised log-mels (b, 64, T)."""
        views = [self._view(log_mel, draws) for _ in range(self.config.n_views)]
        if self.config.mixup_ratio:
            self.memory.add(log_mel)
        return views

    def _view(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        # The same numbers are drawn whatever the memory holds and whichever augmentations apply.
        c = self.config
        if c.mixup_ratio:
            share, which, whether = draws.uniform(1, 1), draws.uniform(), draws.uniform(1, 1)
            other = self.memory.choose(which)
            if other is not None:
                mixed = log_mixup_exp(x, other, c.mixup_ratio * share)
                x = torch.where(whether < c.view_probability, mixed, x)
        resized, whether = random_resize_crop(x, draws, c), draws.uniform(1, 1)
        x = torch.where(whether < c.view_probability, resized, x)
        if c.fader_gain:
            x = random_linear_fader(x, draws, c.fader_gain)
        if c.equalizer_gain:
            x = random_equalizer(x, draws, c.equalizer_gain)
        return x


def silence_ends(waveforms: torch.Tensor, draws: Draws, probability: float) -> torch.Tensor:
    """Replace a random beginning or end of some waveforms (B, n) by zeros."""
    whether, which, share = draws.uniform(3, 1).unbind(1)
    n_samples = waveforms.shape[1]
    time = torch.arange(n_samples, device=waveforms.device) / n_samples
    silent = torch.where(which < 0.5, time < share, time >= share)
    return waveforms.masked_fill(silent & (whether < probability), 0.0)
