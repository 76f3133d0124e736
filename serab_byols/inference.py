"""How the HEAR functions and the file commands run an encoder, whatever mode its module is in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from serab_byols.model import ByolsModel

Encode = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def computing() -> Iterator[None]:
    """No gradients, but ordinary tensors: a probe can be trained on what comes out."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def inference_encoder(model: ByolsModel) -> Encode:
    """The encoder as in eval mode: normalised log-mel (B, 64, T) to embedding (B, D) in float32.

    Made anew for every call from the weights as they are now, and sharing them, so it is never
    stale; the caller's module is not touched, so threads may share it.
    """
    encoder = eval_view(model.encoder)
    dtype = model.dtype

    def encode(log_mel: torch.Tensor) -> torch.Tensor:
        return encoder(log_mel[:, None].to(dtype)).float()

    return encode


def eval_view(module: nn.Module) -> nn.Module:
    """A copy of a module tree in eval mode that shares parameters and buffers with the original."""
    view = copy.copy(module)
    view._modules = {
        name: child if child is None else eval_view(child) for name, child in module._modules.items()
    }
    view.training = False
    return view
