"""Which mean and standard deviation a log-mel is normalised with before the encoder.

The rules, by name:

* ``"clip"``: those of the clip's own log-mel, so that an embedding depends on its clip alone;
* ``"batch"``: shared by all clips of one call, as in the published implementation (for timestamps
  without its division by the number of frames);
* ``"hear2021"``: as ``"batch"``, but timestamp statistics are divided by the number of frames of
  the call, which reproduces the timestamp embeddings of the HEAR 2021 submission;
* ``(mean, std)``: fixed numbers;
* ``"auto"``: the numbers stored with the weights or, for published weights loaded by name, recommended
  for them; ``"clip"`` where there are none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import torch

from serab_byols.errors import InvalidInputError

_MAX_STATISTIC = 1e6
STD_FLOOR = 1e-3
"""Digital silence has a standard deviation of zero; the floor keeps its embedding finite."""


class Statistics(NamedTuple):
    """Mean and unbiased standard deviation of log-mel values."""

    mean: float
    std: float


NormalizationName = Literal["auto", "clip", "batch", "hear2021"]
Normalization = NormalizationName | Statistics
"""A rule, as parsed."""

RULES: tuple[NormalizationName, ...] = get_args(NormalizationName)


def parse_normalization(value: str | Sequence[float]) -> Normalization:
    """A rule's name, or a (mean, std) pair as :class:`Statistics`.

    Raises:
        InvalidInputError: neither, or numbers that no log-mel has as mean and std.

    Example:
        >>> parse_normalization("clip")
        'clip'
        >>> parse_normalization([-6, 5])
        Statistics(mean=-6.0, std=5.0)
    """
    if isinstance(value, str):
        if value not in RULES:
            raise InvalidInputError(
                f"unknown normalization {value!r}; choose from {', '.join(RULES)}, or pass (mean, std)"
            )
        return value
    try:
        mean, std = (float(number) for number in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"normalization takes one of {', '.join(RULES)} or two numbers (mean, std), got {value!r}"
        ) from error
    if not (abs(mean) <= _MAX_STATISTIC and 1 / _MAX_STATISTIC <= std <= _MAX_STATISTIC):
        raise InvalidInputError(
            f"normalization needs a finite mean and a positive std of log-mel values, got ({mean}, {std})"
        )
    return Statistics(mean, std)


def parse_statistics(values: Sequence[float] | None) -> Statistics | None:
    """A (mean, std) pair as :class:`Statistics`; None stays None.

    Raises:
        InvalidInputError: not two numbers, or not such as :func:`parse_normalization` takes.
    """
    if values is None:
        return None
    parsed = parse_normalization(values)
    if not isinstance(parsed, Statistics):
        raise InvalidInputError(f"statistics must be two numbers (mean, std), got {values!r}")
    return parsed


def shares_statistics(rule: Normalization) -> bool:
    """Whether all clips of a call have one mean and std, so that an embedding depends on its neighbours."""
    return rule in ("batch", "hear2021")


def resolve_normalization(rule: Normalization, stored: Statistics | None) -> Normalization:
    """What ``"auto"`` stands for; any other rule stands for itself."""
    if rule == "auto":
        return stored if stored is not None else "clip"
    return rule


def per_clip_statistics(log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased std of every clip of (B, 64, T), each (B, 1, 1); std is floored."""
    std, mean = torch.std_mean(log_mel, dim=(1, 2), correction=1, keepdim=True)
    return mean, std.clamp_min(STD_FLOOR)


def averaged_statistics(log_mels: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``"batch"`` rule of scenes: per-clip means and stds, each averaged over all clips; scalars."""
    per_clip = [per_clip_statistics(log_mel) for log_mel in log_mels]
    mean = torch.cat([mean.flatten() for mean, _ in per_clip]).mean()
    std = torch.cat([std.flatten() for _, std in per_clip]).mean()
    return mean, std


def scene_statistics(
    log_mel: torch.Tensor, rule: Normalization
) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """Mean and std that a batch of scenes (B, 64, T) is normalised with, by a rule other than ``"auto"``.

    Fixed statistics are numbers, those of each clip (B, 1, 1), those that clips share scalars.
    """
    if isinstance(rule, Statistics):
        return rule
    return averaged_statistics([log_mel]) if shares_statistics(rule) else per_clip_statistics(log_mel)


class RunningStatistics:
    """Mean and unbiased std over blocks of values, in float64, without keeping the blocks.

    Pairwise update of Chan, Golub and LeVeque (1983); sums of squares would cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def update(self, block: torch.Tensor) -> None:
        """Include the values of a block of any shape."""
        count = block.numel()
        if count == 0:
            return
        if block.device.type == "mps":  # which has no float64
            block = block.cpu()
        var, mean = torch.var_mean(block.double(), correction=0)
        delta = mean.item() - self.mean
        total = self.count + count
        self.mean += delta * count / total
        self._squares += var.item() * count + delta**2 * self.count * count / total
        self.count = total

    @property
    def statistics(self) -> Statistics:
        """Of everything seen so far; the std is floored."""
        variance = self._squares / max(self.count - 1, 1)
        return Statistics(self.mean, max(math.sqrt(variance), STD_FLOOR))
