"""Runners: an encoder's arithmetic for inference, made anew for every call.

Batch norm is folded into convolutions, activations are channels-last, ReLU comes after pooling where the
two commute, and batches are cut so that activations stay in the cache. Between calls only the folded weights
are kept, and compared with the model's before they are used again
(:mod:`~serab_byols.inference.runners.prepared_weights`), so no update of the weights can be missed. Weights
are detached, since autocast keeps its copies of parameters that require gradients until it ends. The caller's
module is only read, so threads may share it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serab_byols.encoders import CLSTM, AudioNTT, CvT, Encoder, Resnetish34, unwrapped
from serab_byols.inference.runners.audiontt import AudioNTTRunner
from serab_byols.inference.runners.clstm import CLSTMRunner
from serab_byols.inference.runners.cvt import CvTRunner
from serab_byols.inference.runners.module_runner import ModuleRunner, is_unmodified
from serab_byols.inference.runners.resnetish import Resnetish34Runner
from serab_byols.inference.runners.runner import PooledRunner, Runner
from serab_byols.model import ByolsModel

RUNNERS: dict[type[Encoder], Callable[[Any], Runner]] = {
    AudioNTT: AudioNTTRunner,
    Resnetish34: Resnetish34Runner,
    CLSTM: CLSTMRunner,
    CvT: CvTRunner,
}


def make_runner(model: ByolsModel) -> Runner:
    """A runner of the model's encoder in eval mode, with the weights that it has now.

    An encoder that was modified (a hook, a replaced layer, a subclass) is run by its own code.
    """
    encoder = unwrapped(model.encoder)
    if type(encoder) in RUNNERS and is_unmodified(encoder):
        return RUNNERS[type(encoder)](encoder)
    return ModuleRunner(encoder)


__all__ = ["PooledRunner", "Runner", "make_runner"]
