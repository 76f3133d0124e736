"""Means and standard deviations that are learnt in passing: of log-mels, and of what is to be predicted."""

from __future__ import annotations

import torch
from torch import nn

from serab_byols.normalization import STD_FLOOR, Statistics
from serab_byols.pretrain.distributed import averaged, n_processes

N_BATCHES_TO_LEARN = 100
"""After so many the scale of numbers that are to be predicted is taken as known."""

SMALLEST_SHARE = 0.1
"""Of the mean scale: numbers that hardly ever vary must not count more than all others together."""

EPS = 1e-6


class RunningNorm(nn.Module):
    """Subtract the mean and divide by the standard deviation of the crops seen so far.

    Both are averages of per-crop numbers (parity with BYOL-S): the mean of the crops' means, and the
    root of the mean of their unbiased variances, over all crops of all processes, until
    ``n_to_learn`` crops have been seen. What is learnt goes into the checkpoint and, at the end,
    into the weights' file, where ``normalization="auto"`` finds it.

    Args:
        n_to_learn: how many crops until the statistics stay as they are.
        fixed: statistics to use instead, from the start.
    """

    count: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, n_to_learn: int, fixed: Statistics | None = None) -> None:
        super().__init__()
        self.n_to_learn = 0 if fixed else n_to_learn
        start = fixed or Statistics(0.0, 1.0)
        # No float64 anywhere, which Apple's GPUs do not have. A share of the average is a batch's, not
        # a crop's, so that it does not vanish beside float32's precision.
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.tensor(start.mean))
        self.register_buffer("var", torch.tensor(start.std**2))

    @torch.no_grad()
    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Take in log-mels (B, 64, T) and normalise them."""
        if int(self.count) < self.n_to_learn:
            self._learn(log_mel)
        mean, std = self.statistics
        return (log_mel - mean) / std

    def _learn(self, log_mel: torch.Tensor) -> None:
        var, mean = torch.var_mean(log_mel, dim=(1, 2), correction=1)
        n_new = len(log_mel) * n_processes()
        self.count += n_new
        share = n_new / int(self.count)
        self.mean.lerp_(averaged(mean.mean()), share)
        self.var.lerp_(averaged(var.mean()), share)

    @property
    def statistics(self) -> Statistics:
        """What is in use now."""
        return Statistics(float(self.mean), max(float(self.var) ** 0.5, STD_FLOOR))


@torch.no_grad()
def standardized_together(views: list[torch.Tensor]) -> list[torch.Tensor]:
    """Views (B, 64, T) less one mean, by one unbiased std, of all their values in all processes."""
    values = torch.cat(views)
    n = values.numel() * n_processes()
    mean = averaged(values.mean())
    var = averaged((values - mean).square().mean()) * n / (n - 1)
    std = var.sqrt().clamp_min(STD_FLOOR)
    return [(view - mean) / std for view in views]


class Scale(nn.Module):
    """Standard deviation of every number (of a teacher's output, say), learnt from the first batches."""

    n_batches: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.zeros(size))

    @torch.no_grad()
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take in values (..., size) and return the scale (size,)."""
        if int(self.n_batches) < N_BATCHES_TO_LEARN:
            self._learn(values.reshape(-1, values.shape[-1]))
        std = self.var.sqrt()
        return std.clamp_min(SMALLEST_SHARE * float(std.mean()) + EPS)

    def _learn(self, values: torch.Tensor) -> None:
        """Chan, Golub and LeVeque (1983): the difference of large squares would lose a small variance."""
        mean = averaged(values.mean(0))
        var = averaged((values - mean).square().mean(0))
        self.n_batches += 1
        share = 1 / int(self.n_batches)
        delta = mean - self.mean
        self.mean += share * delta
        self.var.copy_((1 - share) * (self.var + share * delta.square()) + share * var)
