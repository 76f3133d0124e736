"""Running a modified encoder by its own code, and telling whether an encoder was modified."""

from __future__ import annotations

import functools
import json
from types import MethodType

import torch
from torch import nn

from serab_byols.encoders import Encoder, create_encoder
from serab_byols.inference.runners.runner import Runner

_METHODS = ("forward", "encode", "step_features", "windows", "pooled")
"""Set on the instance, they override the class."""


class ModuleRunner(Runner):
    """Runs the encoder's own ``forward``, in eval mode."""

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder = eval_view(encoder)
        self._dtype = next(encoder.parameters()).dtype

    def run(self, log_mel: torch.Tensor) -> torch.Tensor:
        return self._encoder(log_mel[:, None].to(self._dtype))


def eval_view(module: nn.Module) -> nn.Module:
    """A copy of a module tree in eval mode that shares parameters and buffers with the original."""
    # Not copy.copy, which uses pickling: some modules refuse it.
    view = object.__new__(type(module))
    # A method that was set on the instance is bound to it, and so is its compiled call: neither would run
    # the view.
    view.__dict__ = {
        name: MethodType(value.__func__, view) if getattr(value, "__self__", None) is module else value
        for name, value in vars(module).items()
        if name != "_compiled_call_impl"
    }
    view._modules = {
        name: child if child is None else eval_view(child) for name, child in module._modules.items()
    }
    view.training = False
    return view


def is_unmodified(encoder: Encoder) -> bool:
    """Whether every layer is the one that the encoder's class creates, without hooks or replacements.

    Only then is its arithmetic known. Encoders with adapters, hooks, quantised or parametrised layers must
    run their own code.
    """
    return _layers(encoder) == _original_layers(encoder.name, json.dumps(encoder.config)) and not any(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or any(name in vars(layer) for name in _METHODS)
        or (isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None)
        for layer in encoder.modules()
    )


def _layers(encoder: Encoder) -> list[tuple[str, type[nn.Module], str]]:
    """Name, class and settings of every layer; those of dropout have no effect in eval mode."""
    return [
        (name, type(layer), "" if isinstance(layer, nn.Dropout) else layer.extra_repr())
        for name, layer in encoder.named_modules()
    ]


@functools.lru_cache(maxsize=32)
def _original_layers(name: str, config: str) -> list[tuple[str, type[nn.Module], str]]:
    with torch.device("meta"):
        encoder = create_encoder(name, **json.loads(config))
    return _layers(encoder)
