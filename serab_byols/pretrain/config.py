"""What a pretraining does, as one value that its checkpoints carry."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES, MIN_SAMPLES, SAMPLE_RATE_HZ
from serab_byols.normalization import Statistics, parse_normalization

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class PretrainConfig:
    """Every choice of a pretraining; the defaults are those of BYOL-S (arXiv 2206.12038).

    Attributes:
        encoder: ``"default"`` (AudioNTT), ``"resnetish34"``, ``"clstm"`` or ``"cvt"``.
        encoder_config: the encoder's own arguments, such as ``{"d": 512}``.
        dropout: probability of the encoder's dropout; None for the encoder's own.
        steps: optimiser steps in all.
        batch_size: crops a step, over all processes.
        crop_s: length of a crop in seconds.
        seed: decides the initial weights, the order of the crops, and every view.
        lr: peak learning rate of AdamW.
        beta2: of AdamW, decay of its mean of squared gradients.
        lr_schedule: ``"constant"`` or ``"cosine"`` (to zero at the last step).
        warmup_steps: steps of linear growth from zero to ``lr``.
        weight_decay: of AdamW, on every parameter.
        ema_decay: of the target network.
        ema_schedule: ``"constant"``, or ``"cosine"`` (to one at the last step; BYOL, arXiv 2006.07733).
        mixup_ratio: a view is mixed with at most this share of an earlier crop; 0 leaves it out.
        mixup_memory: how many earlier crops there are to mix with.
        crop_scale: range of the random resize crop's height and width, relative to the input.
        crop_virtual_time: width of the canvas that the crop is taken from, relative to the input.
        fader_gain: largest offset of the random linear fader at either end, in standard deviations
            of the log-mel (BYOL-A v2, arXiv 2204.07402); 0, as in BYOL-S, leaves it out.
        equalizer_gain: standard deviation of a random smooth curve over the mel bands, likewise; 0
            leaves it out.
        view_probability: share of the views to which each of mixup and resize crop is applied.
        silence_probability: share of the crops of which a random beginning or end becomes digital
            silence, which recordings of sounds are often padded with.
        post_norm: whether both views together are standardised before the networks.
        statistics: fixed mean and standard deviation of the log-mel; None to learn them in passing.
        byol_weight: weight of BYOL's loss; 0 leaves the target network out.
        hybrid_weight: weight of predicting a table of features (arXiv 2203.16637); 0 without one.
        teacher_weight: weight of matching the embeddings of a teacher; 0 without one.
        teacher_frame_weight: weight of matching its features frame by frame, where both encoders
            have such of the same shape.
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
    teacher_frame_weight: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("encoder", self.encoder, ENCODERS)
        _check_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        _check_choice("ema_schedule", self.ema_schedule, SCHEDULES)
        for name in ("steps", "mixup_memory"):
            _check_range(name, getattr(self, name), 1)
        _check_range("seed", self.seed, 0)
        # A batch normalisation needs two values to have a variance.
        _check_range("batch_size", self.batch_size, 2)
        _check_range("warmup_steps", self.warmup_steps, 0)
        for name in ("lr", "crop_s", "crop_virtual_time"):
            _check_range(name, getattr(self, name), math.ulp(0.0))
        weights = ("byol_weight", "hybrid_weight", "teacher_weight", "teacher_frame_weight")
        for name in ("weight_decay", "fader_gain", "equalizer_gain", *weights):
            _check_range(name, getattr(self, name), 0)
        for name in ("beta2", "ema_decay", "mixup_ratio", "view_probability", "silence_probability"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("mixup_ratio", self.mixup_ratio, 0, 1 - 1e-6)
        if self.dropout is not None:
            _check_range("dropout", self.dropout, 0, 1 - 1e-6)
        _check_range("crop_virtual_time", self.crop_virtual_time, 1)
        low, high = self.crop_scale
        if not 0 < low <= high < math.inf:
            raise InvalidInputError(
                f"crop_scale is a range of positive numbers (low, high), got {self.crop_scale}"
            )
        if not any(getattr(self, name) for name in weights):
            raise InvalidInputError(f"nothing to learn: all of {', '.join(weights)} are 0")
        if self.n_samples <= MIN_SAMPLES or self.n_frames < ENCODERS[self.encoder].min_columns:
            raise InvalidInputError(
                f"crop_s={self.crop_s:g} is too short for the encoder {self.encoder!r}, which needs "
                f"{ENCODERS[self.encoder].min_columns} frames of 10 ms"
            )
        if self.statistics is not None and isinstance(parse_normalization(self.statistics), str):
            raise InvalidInputError(f"statistics are two numbers (mean, std), got {self.statistics!r}")

    @property
    def n_samples(self) -> int:
        """Of a crop, at the model's rate."""
        return round(self.crop_s * SAMPLE_RATE_HZ)

    @property
    def n_frames(self) -> int:
        """Of a crop's log-mel."""
        return self.n_samples // HOP_SAMPLES + 1

    @property
    def n_views(self) -> int:
        """Two for BYOL; one is enough to follow a teacher or a table."""
        return 2 if self.byol_weight else 1

    @property
    def fixed_statistics(self) -> Statistics | None:
        """``statistics`` by name."""
        return None if self.statistics is None else Statistics(*self.statistics)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with lists for tuples."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainConfig:
        """What :meth:`as_dict` gave.

        Raises:
            InvalidInputError: a name that is no attribute, or a value that does not fit.
        """
        known = {item.name for item in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise InvalidInputError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**tuples)

    def lr_factor(self, step: int) -> float:
        """Learning rate of a step (from 0), relative to ``lr``."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * (_cosine(step / self.steps) if self.lr_schedule == "cosine" else 1.0)

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


def _check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InvalidInputError(f"{name} must be {limits}, got {value}")
