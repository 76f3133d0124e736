"""Weights of convolutions as the runners want them: batch norm folded in, channels innermost in memory.

For Resnetish34's 21 million weights that takes a third of the time of embedding a second of audio, so the
result is kept for the next call, beside copies of the parameters and buffers that it was made from. A later
call compares these with what the layers hold now, value by value, and prepares anew what differs.

Why values, and not the version counters of tensors: writes through ``.data``, through a NumPy array that
shares the memory, and by some kernels leave no trace there, and inference tensors have none. The comparison
reads the weights once and finds every change, whoever made it. What is prepared is made from the copies,
so that an optimiser in another thread cannot tear it. On other devices than the CPU a comparison would wait
for the device, where preparing takes no time to speak of: there nothing is kept. Nor is it for tensors of
other kinds than torch's own.

What is kept belongs to a layer object and goes with it. It is no part of the module: state dicts, copies
and pickles know nothing of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from serab_byols.inference.context import inference_context

Folded = tuple[torch.Tensor, torch.Tensor]
"""Weight (out, in, mel, time), channels-last, and bias (out,) of a convolution."""


class _Sources(NamedTuple):
    """What a convolution and the batch norm after it consist of; None for what there is not."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    gain: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    var: torch.Tensor | None = None
    eps: float = 0.0

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [value for value in self if isinstance(value, torch.Tensor)]

    def copied(self) -> _Sources:
        values: list[Any] = [value.clone() if isinstance(value, torch.Tensor) else value for value in self]
        return _Sources(*values)


class _Kept(NamedTuple):
    sources: _Sources
    folded: Folded


# No lock: entries are complete before they are put in, and no code runs through all of them.
_KEPT: WeakKeyDictionary[nn.Conv2d, _Kept] = WeakKeyDictionary()


def fold_batch_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Folded:
    """Weight (channels-last) and bias of a convolution with the batch norm that follows it.

    In eval mode batch norm is y = (x - mean) / sqrt(var + eps) * gain + shift with constants, an
    affine map of each channel, so it merges exactly into the convolution's weight and bias.
    """
    return _prepared(
        convolution,
        _Sources(
            convolution.weight,
            convolution.bias,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
        ),
    )


def channels_last_weight(convolution: nn.Conv2d) -> Folded:
    """Weight (channels-last) and bias of a convolution without a batch norm."""
    return _prepared(convolution, _Sources(convolution.weight, convolution.bias))


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same values, channels innermost in memory, which CPU convolutions and pooling prefer."""
    return x.contiguous(memory_format=torch.channels_last)


def _prepared(convolution: nn.Conv2d, sources: _Sources) -> Folded:
    with inference_context():
        if not all(map(_is_comparable, sources.tensors)):
            _KEPT.pop(convolution, None)  # from before the model went to another device
            return _folded(sources)
        kept = _KEPT.get(convolution)
        if kept is None or not _is_same(kept.sources, sources):
            copies = sources.copied()
            kept = _Kept(copies, _folded(copies))
            _KEPT[convolution] = kept
        return kept.folded


def _folded(sources: _Sources) -> Folded:
    weight, bias, gain, shift, mean, var, eps = sources
    if mean is None:
        assert bias is not None
        return channels_last(weight.detach()), bias.detach()
    assert gain is not None
    assert shift is not None
    assert var is not None
    scale = gain.float() / (var.float() + eps).sqrt()
    new_bias = shift.float() - mean.float() * scale
    if bias is not None:
        new_bias = new_bias + bias.float() * scale
    new_weight = weight.float() * scale[:, None, None, None]
    return channels_last(new_weight.to(weight.dtype)), new_bias.to(weight.dtype)


def _is_comparable(tensor: torch.Tensor) -> bool:
    """Whether it is an ordinary tensor in this machine's memory."""
    return type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device.type == "cpu"


def _is_same(kept: _Sources, sources: _Sources) -> bool:
    ours, theirs = kept.tensors, sources.tensors
    return (
        kept.eps == sources.eps
        and len(ours) == len(theirs)
        and all(a.dtype == b.dtype and _equal(a, b) for a, b in zip(ours, theirs))
    )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compared as 64-bit integers where both can be had so, which takes half as long."""
    if _has_words(a) and _has_words(b):
        a, b = (tensor.detach().flatten().view(torch.int64) for tensor in (a, b))
    return torch.equal(a, b)


def _has_words(tensor: torch.Tensor) -> bool:
    offset_bytes = tensor.storage_offset() * tensor.element_size()
    return tensor.is_contiguous() and tensor.nbytes % 8 == 0 and offset_bytes % 8 == 0
