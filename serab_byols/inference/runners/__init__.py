"""How the HEAR functions and the file commands run an encoder: fast, exact, and never stale.

A runner is made for every call from the weights as they are at that moment: batch norm is folded
into convolutions, activations lie channels-last, ReLU comes after pooling where they commute, and
batches are cut so that activations stay in the cache. Nothing is kept between calls, so no update
of the weights can be missed; weights are detached, since autocast keeps what it made of parameters that
learn for as long as it lasts. The caller's module is only read, so threads may share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from serab_byols.encoders import CLSTM, AudioNTT, CvT, Encoder, Resnetish34
from serab_byols.inference.runners.audiontt import AudioNTTRunner
from serab_byols.inference.runners.clstm import CLSTMRunner
from serab_byols.inference.runners.cvt import CvTRunner
from serab_byols.inference.runners.plain import PlainRunner, is_as_built
from serab_byols.inference.runners.resnetish import Resnetish34Runner
from serab_byols.inference.runners.runner import PooledRunner, Runner
from serab_byols.model import ByolsModel

RUNNERS: dict[type[Encoder], Callable[[Any], Runner]] = {
    AudioNTT: AudioNTTRunner,
    Resnetish34: Resnetish34Runner,
    CLSTM: CLSTMRunner,
    CvT: CvTRunner,
}


@contextmanager
def computing() -> Iterator[None]:
    """No gradients, but ordinary tensors: a probe can be trained on what comes out."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def make_runner(model: ByolsModel) -> Runner:
    """A runner of the model's encoder as in eval mode, from its weights at this moment.

    An encoder that is not as its class builds it (a hook, a replaced layer, a subclass) runs as it is.
    """
    # torch.compile wraps a module; what it wraps is what runs here.
    encoder = getattr(model.encoder, "_orig_mod", model.encoder)
    if type(encoder) in RUNNERS and is_as_built(encoder):
        return RUNNERS[type(encoder)](encoder)
    return PlainRunner(encoder)


__all__ = ["PooledRunner", "Runner", "computing", "make_runner"]
