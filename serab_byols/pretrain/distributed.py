"""What the processes of one training share: batches, sums and batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from serab_byols.errors import InvalidInputError


@dataclass(frozen=True)
class Share:
    """The rows of the whole batch that belong to one process.

    Attributes:
        rank: of the process, from 0.
        n_processes: that train together.
        n_own: rows of each process.
    """

    rank: int
    n_processes: int
    n_own: int

    @property
    def n_all(self) -> int:
        """Rows of all processes."""
        return self.n_own * self.n_processes

    @property
    def rows(self) -> slice:
        """Those of this process among all."""
        return slice(self.rank * self.n_own, (self.rank + 1) * self.n_own)


def own_share(batch_size: int) -> Share:
    """This process's share of a batch.

    Raises:
        InvalidInputError: the batch cannot be divided evenly.
    """
    n = n_processes()
    if batch_size % n:
        raise InvalidInputError(f"batch_size={batch_size} cannot be divided by {n} processes")
    return Share(rank(), n, batch_size // n)


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if n_processes() > 1 else 0


def n_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def to_float32(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32, or float64 if it is: statistics and losses need it in mixed precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _AllReduce(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> torch.Tensor:
        return _AllReduce.apply(gradients[0])


def averaged(x: torch.Tensor) -> torch.Tensor:
    """``x`` averaged over all processes, differentiably."""
    return _AllReduce.apply(x) / n_processes() if n_processes() > 1 else x


def gather(x: torch.Tensor) -> torch.Tensor:
    """The (b, ...) of all processes in order of rank, as (n_processes * b, ...); no gradient."""
    if n_processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(n_processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """:func:`gather`; its gradient is the sum of what all processes send to the rows of each."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(n_processes())[rank()]


def gather_with_gradient(x: torch.Tensor) -> torch.Tensor:
    """As :func:`gather`, differentiably."""
    return _Gather.apply(x) if n_processes() > 1 else x


def synchronize_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Let the batch normalisations inside ``module`` use the batches of all processes.

    Torch's ``SyncBatchNorm`` works on GPUs only; elsewhere ours takes the same parameters and buffers.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.__class__ = GlooSyncBatchNorm
    return module


class GlooSyncBatchNorm(_BatchNorm):
    """Batch normalisation of (B, C, ...) in training mode, over the batches of all processes.

    It needs nothing but sums over the processes, which gloo offers on CPUs.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As a single process computes it with the whole batch."""
        x = to_float32(input)
        dims = [dim for dim in range(x.ndim) if dim != 1]
        channels = (1, -1, *[1] * (x.ndim - 2))
        mean = averaged(x.mean(dims))
        centred = x - mean.view(channels)
        var = averaged(centred.square().mean(dims))
        update_running_statistics(self, mean, var, x.numel() // x.shape[1] * n_processes())
        y = centred * ((var + self.eps).rsqrt() * self.weight).view(channels)
        return (y + self.bias.view(channels)).to(input.dtype)


@torch.no_grad()
def update_running_statistics(norm: _BatchNorm, mean: torch.Tensor, var: torch.Tensor, n: int) -> None:
    """Move a batch normalisation's running statistics towards those of ``n`` values; ``var`` is biased."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * n / (n - 1), norm.momentum)
