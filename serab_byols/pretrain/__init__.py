"""Pretraining of BYOL-S encoders on unlabelled audio (extra ``pretrain``).

``serab-byols pretrain`` does it from a shell, :func:`pretrain` from Python. Lightning is imported when a
training begins.
"""

from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.machine import Machine
from serab_byols.pretrain.pretraining import Result, pretrain

__all__ = ["Machine", "PretrainConfig", "Result", "pretrain"]
