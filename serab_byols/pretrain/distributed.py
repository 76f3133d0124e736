"""What processes of one training share: sums, batches, and batch normalisation.

torch's own synchronised batch normalisation works on GPUs only; this one works wherever the
processes can exchange tensors, on CPUs through gloo too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Share:
    """The rows of the whole batch that are this process's.

    Attributes:
        rank: of this process.
        n_processes: that train together.
        n_own: rows of a process.
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
        """This process's among all."""
        return slice(self.rank * self.n_own, (self.rank + 1) * self.n_own)


def n_processes() -> int:
    """That train together; 1 outside of a distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if n_processes() > 1 else 0


def full(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32, or in more if it has more: statistics and losses need it in mixed precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _SumOverProcesses(torch.autograd.Function):
    """The sum, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def summed(x: torch.Tensor) -> torch.Tensor:
    """``x`` added over all processes, differentiably."""
    return _SumOverProcesses.apply(x) if n_processes() > 1 else x


def averaged(x: torch.Tensor) -> torch.Tensor:
    """``x`` averaged over all processes, differentiably."""
    return summed(x) / n_processes()


def gather(x: torch.Tensor) -> torch.Tensor:
    """Every process's (b, ...) in order of rank, as (n_processes * b, ...); no gradient."""
    if n_processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(n_processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalisation of (B, C, ...) over the batches of all processes; keys as in torch's."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's own in a single process, in eval mode, or without running statistics."""
        if not self.training or n_processes() == 1:
            return super().forward(input)
        x = full(input)
        dims = [dim for dim in range(x.ndim) if dim != 1]
        n = x.numel() // x.shape[1] * n_processes()
        mean = averaged(x.mean(dims))
        centred = x - _along_channels(mean, x)
        var = averaged(centred.square().mean(dims))
        track(self, mean, var, n)
        y = centred * _along_channels((var + self.eps).rsqrt() * self.weight, x)
        return (y + _along_channels(self.bias, x)).to(input.dtype)


@torch.no_grad()
def track(norm: _BatchNorm, mean: torch.Tensor, var: torch.Tensor, n: int) -> None:
    """Move a batch normalisation's running statistics towards a batch's: biased ``var`` of ``n`` values."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * n / (n - 1), norm.momentum)


def _along_channels(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))


def synchronized(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation inside ``module``, which is returned, by a synchronised one."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            twin = SynchronizedBatchNorm(child.num_features, child.eps, child.momentum)
            # The very tensors, which are frozen where the child's were, and where they were.
            twin.weight, twin.bias = child.weight, child.bias
            twin.running_mean, twin.running_var = child.running_mean, child.running_var
            twin.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, twin.train(child.training))
        else:
            synchronized(child)
    return module
