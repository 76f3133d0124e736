"""Means and standard deviations that are estimated online: of log-mels, and of prediction targets."""

from __future__ import annotations

import torch
from torch import nn

from serab_byols.normalization import STD_FLOOR, Statistics
from serab_byols.pretrain.distributed import averaged, n_processes

N_SCALE_BATCHES = 100
"""After so many batches the scale of prediction targets stays as it is."""

SMALLEST_SHARE = 0.1
"""Of the mean scale: numbers that hardly vary must not count more than all others together."""

EPS = 1e-6


class Counting(nn.Module):
    """A module that counts what it has seen.

    The count is part of the state dict, but a Python number: reading it does not wait for the device.
    """

    n_seen = 0

    def get_extra_state(self) -> int:
        return self.n_seen

    def set_extra_state(self, state: int) -> None:
        self.n_seen = state


class RunningMoments(Counting):
    """Mean and variance of ``size`` numbers, estimated online in batches."""

    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.zeros(size))

    def merge(self, values: torch.Tensor, n_new: int) -> None:
        """Include a batch (n, size) that counts as ``n_new``, and those of the other processes.

        Pairwise update of Chan, Golub and LeVeque (1983): the difference of large squares would lose a
        small variance.
        """
        mean = averaged(values.mean(0))
        var = averaged((values - mean).square().mean(0))
        self.n_seen += n_new
        share = n_new / self.n_seen
        delta = mean - self.mean
        self.mean += share * delta
        self.var.copy_((1 - share) * (self.var + share * delta.square()) + share * var)


class RunningNorm(RunningMoments):
    """Subtract the mean and divide by the standard deviation of the crops seen so far.

    Both are of all values of all crops in all processes, the variance between crops included, until
    ``n_to_learn`` crops have been seen. (BYOL-S subtracts the mean known at the time from each crop, which
    converges to the same.) They are saved in the training checkpoint and, at the end, in
    the weights' file, where ``normalization="auto"`` finds them.

    Args:
        n_to_learn: crops after which the statistics stay as they are.
        fixed: mean and standard deviation to use instead, from the start.
    """

    def __init__(self, n_to_learn: int, fixed: tuple[float, float] | None = None) -> None:
        super().__init__(size=1)
        self.n_to_learn = 0 if fixed else n_to_learn
        mean, std = fixed or (0.0, 1.0)
        self.mean.fill_(mean)
        self.var.fill_(std**2)

    @torch.no_grad()
    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Update the statistics by log-mels (B, 64, T), and normalise these."""
        if self.n_seen < self.n_to_learn:
            self._learn(log_mel)
        return (log_mel - self.mean) / self.var.sqrt().clamp_min(STD_FLOOR)

    def _learn(self, log_mel: torch.Tensor) -> None:
        # Whole batches at a time: the share of one crop would vanish beside float32's precision, and
        # Apple's GPUs have no float64.
        self.merge(log_mel.flatten()[:, None], len(log_mel) * n_processes())

    @property
    def statistics(self) -> Statistics:
        """The current ones, as numbers."""
        return Statistics(float(self.mean), max(float(self.var) ** 0.5, STD_FLOOR))


@torch.no_grad()
def standardize_together(views: list[torch.Tensor]) -> list[torch.Tensor]:
    """Views (B, 64, T) less one mean, by one unbiased std, of all their values in all processes."""
    values = torch.cat(views)
    n = values.numel() * n_processes()
    mean = averaged(values.mean())
    var = averaged((values - mean).square().mean()) * n / (n - 1)
    std = var.sqrt().clamp_min(STD_FLOOR)
    return [(view - mean) / std for view in views]


class RunningScale(RunningMoments):
    """Mean and standard deviation of each of ``size`` numbers, from the first batches."""

    @torch.no_grad()
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Update the statistics by values (..., size), and return the standard deviations (size,)."""
        if self.n_seen < N_SCALE_BATCHES:
            self.merge(values.reshape(-1, values.shape[-1]), n_new=1)
        std = self.var.sqrt()
        return std.clamp_min(SMALLEST_SHARE * std.mean() + EPS)
