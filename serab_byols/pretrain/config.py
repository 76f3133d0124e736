"""The options of a pretraining, as one value that its checkpoints carry."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES, MIN_SAMPLES, SAMPLE_RATE_HZ
from serab_byols.normalization import parse_normalization

SCHEDULES = ("constant", "cosine")

_WEIGHTS = ("byol_weight", "hybrid_weight", "teacher_weight", "teacher_time_step_weight")
_POSITIVE, _BELOW_ONE = math.ulp(0.0), 1 - 1e-6
_RANGES = {
    "steps": (1, math.inf),
    "batch_size": (2, math.inf),  # a batch normalisation needs two values to have a variance
    "crop_s": (_POSITIVE, math.inf),
    "seed": (0, math.inf),
    "lr": (_POSITIVE, math.inf),
    "beta2": (0, 1),
    "warmup_steps": (0, math.inf),
    "weight_decay": (0, math.inf),
    "ema_decay": (0, 1),
    "mixup_ratio": (0, _BELOW_ONE),
    "mixup_memory": (1, math.inf),
    "crop_virtual_time": (1, math.inf),
    "fader_gain": (0, math.inf),
    "equalizer_gain": (0, math.inf),
    "view_probability": (0, 1),
    "silence_probability": (0, 1),
    **dict.fromkeys(_WEIGHTS, (0, math.inf)),
}


@dataclass(frozen=True)
class PretrainConfig:
    """Every option of a pretraining; the defaults are those of BYOL-S (arXiv 2206.12038).

    Attributes:
        encoder: ``"default"`` (AudioNTT), ``"resnetish34"``, ``"clstm"`` or ``"cvt"``.
        encoder_config: the encoder's own arguments, such as ``{"d": 512}``.
        dropout: probability of the encoder's dropout; None for the encoder's own.
        steps: optimiser steps in all.
        batch_size: crops per step, over all processes.
        crop_s: length of a crop in seconds.
        seed: decides the initial weights, the order of the crops, and every view.
        lr: peak learning rate of AdamW.
        beta2: of AdamW, decay of its mean of squared gradients.
        lr_schedule: ``"constant"`` or ``"cosine"`` (to zero at the last step).
        warmup_steps: steps of linear growth of the learning rate from zero to ``lr``.
        weight_decay: of AdamW, on every parameter.
        ema_decay: of the target network.
        ema_schedule: ``"constant"``, or ``"cosine"`` (to one at the last step; BYOL, arXiv 2006.07733).
        mixup_ratio: largest share of an earlier crop that is mixed into a view; 0: no mixup.
        mixup_memory: number of earlier crops to mix with.
        crop_scale: range of the random resize crop's height and width, relative to the input.
        crop_virtual_time: width of the canvas that the crop is taken from, relative to the input.
        fader_gain: largest offset of the random linear fader at either end, in standard deviations
            of the log-mel (BYOL-A v2, arXiv 2204.07402); 0, as in BYOL-S: no fader.
        equalizer_gain: standard deviation of a random smooth curve over the mel bands, in the same
            unit; 0: none.
        view_probability: probability that mixup, and that the resize crop, is applied to a view.
        silence_probability: probability that a random beginning or end of a crop becomes digital
            silence, which recordings of sounds are often padded with.
        post_norm: whether both views together are standardised before the networks.
        statistics: fixed mean and standard deviation of the log-mel; None to estimate them online.
        byol_weight: weight of BYOL's loss; 0: no target network.
        hybrid_weight: weight of predicting features (arXiv 2203.16637); 0 without them.
        teacher_weight: weight of matching the embeddings of a teacher; 0 without one.
        teacher_time_step_weight: weight of matching its features per time step, before pooling, where
            both encoders are of one kind and width.
    """

    encoder: str = "default"
    encoder_config: dict[str, Any] = field(default_factory=dict)
    dropout: float | None = None
    steps: int = 100_000
    batch_size: int = 256
    crop_s: float = 0.95
    seed: int = 42
    lr: float = 3e-4
    beta2: float = 0.999
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    ema_decay: float = 0.99
    ema_schedule: str = "constant"
    mixup_ratio: float = 0.4
    mixup_memory: int = 2048
    crop_scale: tuple[float, float] = (0.6, 1.5)
    crop_virtual_time: float = 1.5
    fader_gain: float = 0.0
    equalizer_gain: float = 0.0
    view_probability: float = 1.0
    silence_probability: float = 0.0
    post_norm: bool = True
    statistics: tuple[float, float] | None = None
    byol_weight: float = 1.0
    hybrid_weight: float = 0.0
    teacher_weight: float = 0.0
    teacher_time_step_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_scale", "statistics"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):  # JSON has lists, a model a named tuple
                object.__setattr__(self, name, tuple(value))
        _check_choice("encoder", self.encoder, ENCODERS)
        _check_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        _check_choice("ema_schedule", self.ema_schedule, SCHEDULES)
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        if self.dropout is not None:
            _check_range("dropout", self.dropout, 0, _BELOW_ONE)
        low, high = self.crop_scale
        if not 0 < low <= high < math.inf:
            raise InvalidInputError(
                f"crop_scale is a range of positive numbers (low, high), got {self.crop_scale}"
            )
        if not any(getattr(self, name) for name in _WEIGHTS):
            raise InvalidInputError(f"nothing to learn: all of {', '.join(_WEIGHTS)} are 0")
        min_columns = ENCODERS[self.encoder].min_columns
        if self.n_samples <= MIN_SAMPLES or self.n_columns < min_columns:
            raise InvalidInputError(
                f"crop_s={self.crop_s:g} is too short for the encoder {self.encoder!r}, which needs "
                f"{min_columns} columns of 10 ms"
            )
        if self.statistics is not None and isinstance(parse_normalization(self.statistics), str):
            raise InvalidInputError(f"statistics are two numbers (mean, std), got {self.statistics!r}")

    @property
    def n_samples(self) -> int:
        """Length of a crop at the model's sample rate."""
        return round(self.crop_s * SAMPLE_RATE_HZ)

    @property
    def n_columns(self) -> int:
        """Columns of a crop's log-mel."""
        return self.n_samples // HOP_SAMPLES + 1

    @property
    def n_views(self) -> int:
        """Two for BYOL; a teacher or a table needs only one."""
        return 2 if self.byol_weight else 1

    def lr_at(self, step: int) -> float:
        """Learning rate of a step (from 0)."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * warmup * (_cosine(step / self.steps) if self.lr_schedule == "cosine" else 1.0)

    def ema_decay_at(self, step: int) -> float:
        """Decay of the target network at a step (from 0)."""
        if self.ema_schedule == "constant":
            return self.ema_decay
        return 1 - (1 - self.ema_decay) * _cosine(step / self.steps)


def _cosine(progress: float) -> float:
    """From 1 at the start to 0 at the end."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise InvalidInputError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InvalidInputError(f"{name} must be {limits}, got {value}")
