"""Pretraining of BYOL-S encoders on unlabelled audio (extra ``pretrain``).

``serab-byols pretrain`` is this from a shell; :func:`pretrain` from Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serab_byols.errors import missing_extra
from serab_byols.pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from serab_byols.pretrain.machine import Machine
    from serab_byols.pretrain.run import Result, pretrain

__all__ = ["Machine", "PretrainConfig", "Result", "pretrain"]


def __getattr__(name: str) -> Any:
    # Lightning is imported when a training is wanted, not when its options are looked at.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from serab_byols.pretrain import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise missing_extra("lightning", "pretrain", "pretraining") from error
    return getattr(run, name)
