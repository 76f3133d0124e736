"""What a rule of the HEAR common API is, and what it is checked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from serab_byols.hear_benchmark.validation_audio import noise_clips

Origin = Literal["original", "api", "extra"]
"""Who asks for a rule; see :mod:`serab_byols.hear_benchmark.validation`."""


class BrokenRuleError(Exception):
    """The module breaks the rule; the message says how."""


class NotCheckedError(Exception):
    """The message says why."""


@dataclass
class Subject:
    """The module, and what earlier rules found."""

    name: str
    file: str
    device: torch.device
    long: bool
    module: Any = None
    model: Any = None
    scenes: list[tuple[torch.Tensor, Any]] = field(default_factory=list)
    """Audio (n_clips, n_samples) and what came of it."""
    timestamps: list[tuple[torch.Tensor, Any, Any]] = field(default_factory=list)
    """Audio, embeddings and timestamps."""
    hop_ms: float = 0.0

    def clips(self, length_s: float, n_clips: int) -> torch.Tensor:
        return noise_clips(int(length_s * self.model.sample_rate), n_clips).to(self.device)

    def scene(self, audio: torch.Tensor) -> torch.Tensor:
        return self.module.get_scene_embeddings(audio, self.model)

    def frames(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, timestamps = self.module.get_timestamp_embeddings(audio, self.model)
        return embeddings, timestamps

    def one_clip(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of (n_samples,): embeddings (n_timestamps, D), timestamps (n_timestamps,), float64 on the CPU."""
        embeddings, timestamps = self.frames(audio[None].to(self.device))
        return embeddings[0].detach().double().cpu(), timestamps[0].detach().double().cpu()


Check = Callable[[Subject], str]
"""Says what it found; raises :class:`BrokenRuleError` or :class:`NotCheckedError`."""


@dataclass(frozen=True)
class Rule:
    """A rule, and the rules without which it cannot be checked."""

    name: str
    states: str
    origin: Origin
    needs: tuple[str, ...]
    check: Check


class Rules(list[Rule]):
    """Rules in the order in which they are checked."""

    def rule(self, name: str, states: str, origin: Origin, *needs: str) -> Callable[[Check], Check]:
        """Decorate the check of a rule, which is added at the end."""

        def add(check: Check) -> Check:
            self.append(Rule(name, states, origin, needs, check))
            return check

        return add


def type_of(value: object) -> str:
    cls = type(value)
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def attribute(subject: Subject, name: str) -> Any:
    if subject.model is None:
        raise NotCheckedError("no model was loaded")
    if not hasattr(subject.model, name):
        raise BrokenRuleError(f"the model has no attribute {name}")
    return getattr(subject.model, name)
