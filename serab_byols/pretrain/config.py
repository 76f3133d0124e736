"""The options of a pretraining, as one value that its checkpoints carry."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES, MIN_SAMPLES, N_MELS, SAMPLE_RATE_HZ
from serab_byols.normalization import parse_normalization

SCHEDULES = ("constant", "cosine")

_WEIGHTS = (
    "byol_weight",
    "contrastive_weight",
    "hybrid_weight",
    "teacher_weight",
    "teacher_time_step_weight",
)
_POSITIVE, _BELOW_ONE = math.ulp(0.0), 1 - 1e-6
_INT64_MAX = 2**63 - 1
_COUNTS = {
    "steps": (1, _INT64_MAX),
    "batch_size": (2, 1_000_000),  # a batch normalisation needs two values to have a variance
    "seed": (0, _INT64_MAX),
    "warmup_steps": (0, _INT64_MAX),
    "mixup_memory": (1, 1_000_000_000),
}
_FLOAT32_MAX = 3.4e38
_RANGES = {
    "crop_s": (_POSITIVE, 60),  # what is longer takes more memory for a batch than machines have
    "lr": (_POSITIVE, _FLOAT32_MAX),
    "beta2": (0, 1),
    "weight_decay": (0, _FLOAT32_MAX),
    "ema_decay": (0, 1),
    "mixup_ratio": (0, _BELOW_ONE),
    "crop_virtual_time": (1, 100),
    "fader_gain": (0, _FLOAT32_MAX),
    "equalizer_gain": (0, _FLOAT32_MAX),
    "view_probability": (0, 1),
    "silence_probability": (0, 1),
    **dict.fromkeys(_WEIGHTS, (0, _FLOAT32_MAX)),
}
_LARGEST_CROP_SCALE = 100
_MAX_MEMORY_BYTES = 64 * 10**9
"""Of the mixup memory, which is allocated at once."""


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
        contrastive_weight: weight of the contrastive loss (SimCLR, arXiv 2002.05709); 0: none.
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
    contrastive_weight: float = 0.0
    hybrid_weight: float = 0.0
    teacher_weight: float = 0.0
    teacher_time_step_weight: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("encoder", self.encoder, ENCODERS)
        _check_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        _check_choice("ema_schedule", self.ema_schedule, SCHEDULES)
        # Numbers of other libraries become Python's, which checkpoints can hold.
        for name, (low, high) in _COUNTS.items():
            self._set(name, _whole_number(name, getattr(self, name), low, high))
        for name, (least, most) in _RANGES.items():
            self._set(name, _number(name, getattr(self, name), least, most))
        if self.dropout is not None:
            self._set("dropout", _number("dropout", self.dropout, 0, _BELOW_ONE))
        if not isinstance(self.post_norm, bool):
            raise InvalidInputError(f"post_norm must be True or False, got {self.post_norm!r}")
        self._set("encoder_config", _json_object("encoder_config", self.encoder_config))
        self._set("crop_scale", _crop_scale(self.crop_scale))
        if not any(getattr(self, name) for name in _WEIGHTS):
            raise InvalidInputError(f"nothing to learn: all of {', '.join(_WEIGHTS)} are 0")
        min_columns = ENCODERS[self.encoder].min_columns
        if self.n_samples <= MIN_SAMPLES or self.n_columns < min_columns:
            raise InvalidInputError(
                f"crop_s={self.crop_s:g} is too short for the encoder {self.encoder!r}, which needs "
                f"{min_columns} columns of 10 ms"
            )
        memory_bytes = self.mixup_memory * self.n_columns * N_MELS * 4
        if memory_bytes > _MAX_MEMORY_BYTES:
            raise InvalidInputError(
                f"mixup_memory={self.mixup_memory} crops of {self.crop_s:g} s would take "
                f"{memory_bytes / 1e9:.0f} GB, more than {_MAX_MEMORY_BYTES / 1e9:.0f}"
            )
        if self.statistics is not None:
            statistics = parse_normalization(self.statistics)
            if isinstance(statistics, str):
                raise InvalidInputError(f"statistics are two numbers (mean, std), got {self.statistics!r}")
            self._set("statistics", tuple(statistics))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for others

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
        """Two for BYOL and contrastive learning; a teacher or a table needs only one."""
        return 2 if self.byol_weight or self.contrastive_weight else 1

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


def _check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InvalidInputError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


def is_number(value: object, kind: type) -> bool:
    """Whether it is an ``Integral`` or a ``Real``; truth values are neither here."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _whole_number(name: str, value: Any, low: int, high: int) -> int:
    if not is_number(value, Integral):
        raise InvalidInputError(f"{name} must be a whole number, got {value!r}")
    _check_range(name, int(value), low, high)
    return int(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not is_number(value, Real):
        raise InvalidInputError(f"{name} must be a number, got {value!r}")
    _check_range(name, value, low, high)
    return float(value)


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if low <= value <= high:  # NaN is in no range
        return
    limits = "above 0" if low == _POSITIVE else f"at least {low:g}"
    if value > high or high not in (_INT64_MAX, _FLOAT32_MAX):  # limits of the types, else not worth a word
        limits += f" and at most {high:g}"
    raise InvalidInputError(f"{name} must be {limits}, got {value}")


def _crop_scale(value: object) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:  # JSON has lists
        raise InvalidInputError(f"crop_scale is a range of two numbers (low, high), got {value!r}")
    low, high = (_number("crop_scale", bound, _POSITIVE, _LARGEST_CROP_SCALE) for bound in value)
    if low > high:
        raise InvalidInputError(f"crop_scale is a range of positive numbers (low, high), got {value}")
    return low, high


def _json_object(name: str, value: object) -> dict[str, Any]:
    try:
        same: object = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} must be what JSON can hold, got {value!r}: {error}") from error
    if not isinstance(same, dict):
        raise InvalidInputError(f"{name} must be a dict, got {value!r}")
    return same
