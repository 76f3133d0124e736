"""Mean and standard deviation that log-mels are normalised with while they are being learnt."""

from __future__ import annotations

import torch
from torch import nn

from serab_byols.normalization import STD_FLOOR, Statistics
from serab_byols.pretrain.distributed import averaged, summed


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
        # In float32 the average of millions of crops would stop moving.
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.tensor(start.mean, dtype=torch.float64))
        self.register_buffer("var", torch.tensor(start.std**2, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Take in log-mels (B, 64, T) and normalise them."""
        if int(self.count) < self.n_to_learn:
            self._learn(log_mel.double())
        mean, std = self.statistics
        return (log_mel - mean) / std

    def _learn(self, log_mel: torch.Tensor) -> None:
        var, mean = torch.var_mean(log_mel, dim=(1, 2), correction=1)
        n_new = summed(torch.tensor(float(len(log_mel)), dtype=torch.float64, device=mean.device))
        self.count += n_new.long()
        share = n_new / self.count
        self.mean.lerp_(averaged(mean.mean()), share.to(self.mean))
        self.var.lerp_(averaged(var.mean()), share.to(self.var))

    @property
    def statistics(self) -> Statistics:
        """What is in use now."""
        return Statistics(float(self.mean), max(float(self.var) ** 0.5, STD_FLOOR))


@torch.no_grad()
def standardized_together(views: list[torch.Tensor]) -> list[torch.Tensor]:
    """Views (B, 64, T) less one mean, by one unbiased std, of all their values in all processes."""
    values = torch.cat(views)
    n = summed(torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device))
    mean = averaged(values.double().mean())
    squares = summed((values.double() - mean).square().sum())
    std = (squares / (n - 1)).sqrt().clamp_min(STD_FLOOR)
    return [((view - mean) / std).to(view.dtype) for view in views]
