"""Rules on embeddings: their types, shapes and values, and what they may depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from serab_byols.hear_benchmark.validation_rule import (
    BrokenRuleError,
    NotCheckedError,
    Rules,
    Subject,
    attribute,
    type_of,
)

LENGTHS_S = (0.81, 1.07, 1.98, 2.74, 4.0)
"""Clips of HEAR's tasks are from 0.8 s on; the others are those of the original validator."""

REPEATABLE = 1e-4
BATCH_INDEPENDENT = 1e-3
DEVICE_INDEPENDENT = 1e-2
"""How much embeddings may differ, as a share of the largest value."""

RULES = Rules()
LENGTHS = ", ".join(f"{length:g}" for length in LENGTHS_S)

# Scene embeddings


@RULES.rule(
    "scene-call",
    f"scene embeddings of clips of {LENGTHS} s are tensors",
    "original",
    *("model-type", "sample_rate", "get_scene_embeddings"),
)
def _scene_call(subject: Subject) -> str:
    for length_s in LENGTHS_S:
        for n_clips in (1, 4):
            audio = subject.clips(length_s, n_clips)
            embeddings = called(subject.scene, audio)
            _check_tensors(embeddings)
            subject.scenes.append((audio, embeddings))
    return f"{len(subject.scenes)} calls"


def called(function: Callable[[torch.Tensor], Any], audio: torch.Tensor) -> Any:
    """What comes of clips (n_clips, n_samples); whatever is raised breaks the rule."""
    try:
        return function(audio)
    except Exception as error:
        clips = f"{len(audio)} clips of {audio.shape[1]} samples"
        raise BrokenRuleError(f"{clips}: {type(error).__name__}: {error}") from error


def _check_tensors(*values: object) -> None:
    for value in values:
        if not isinstance(value, torch.Tensor):
            raise BrokenRuleError(f"expected a torch.Tensor, got {type_of(value)}")


@RULES.rule("scene-dtype", "scene embeddings are float32", "original", "scene-call")
def _scene_dtype(subject: Subject) -> str:
    return _float32([embeddings for _, embeddings in subject.scenes])


@RULES.rule("scene-shape", "scene embeddings are (n_clips, scene_embedding_size)", "original", "scene-call")
def _scene_shape(subject: Subject) -> str:
    size = attribute(subject, "scene_embedding_size")
    for audio, embeddings in subject.scenes:
        if tuple(embeddings.shape) != (len(audio), size):
            raise BrokenRuleError(
                f"{len(audio)} clips gave the shape {tuple(embeddings.shape)}, "
                f"expected ({len(audio)}, {size})"
            )
    return f"(n_clips, {size})"


@RULES.rule("scene-finite", "scene embeddings are finite, also those of silence", "extra", "scene-shape")
def _scene_finite(subject: Subject) -> str:
    return _finite([e for _, e in subject.scenes], called(subject.scene, _silence(subject)))


@RULES.rule("scene-repeatable", "the same call gives the same scene embeddings", "extra", "scene-finite")
def _scene_repeatable(subject: Subject) -> str:
    return _repeatable(subject, subject.scene)


@RULES.rule(
    "scene-batch",
    "a scene embedding does not depend on the other clips of the call",
    "extra",
    "scene-repeatable",
)
def _scene_batch(subject: Subject) -> str:
    return _batch_independent(subject, subject.scene)


# Timestamp embeddings


@RULES.rule(
    "timestamp-call",
    f"timestamp embeddings of clips of {LENGTHS} s are a pair of tensors",
    "original",
    *("model-type", "sample_rate", "get_timestamp_embeddings"),
)
def _timestamp_call(subject: Subject) -> str:
    for length_s in LENGTHS_S:
        for n_clips in (1, 2):
            audio = subject.clips(length_s, n_clips)
            embeddings, timestamps = called(subject.frames, audio)
            _check_tensors(embeddings, timestamps)
            subject.timestamps.append((audio, embeddings, timestamps))
    return f"{len(subject.timestamps)} calls"


@RULES.rule("timestamp-dtype", "timestamp embeddings are float32", "original", "timestamp-call")
def _timestamp_dtype(subject: Subject) -> str:
    return _float32([embeddings for _, embeddings, _ in subject.timestamps])


@RULES.rule(
    "timestamp-shape",
    "timestamp embeddings are (n_clips, n_timestamps, timestamp_embedding_size), "
    "timestamps (n_clips, n_timestamps)",
    "original",
    "timestamp-call",
)
def _timestamp_shape(subject: Subject) -> str:
    size = attribute(subject, "timestamp_embedding_size")
    for audio, embeddings, timestamps in subject.timestamps:
        shapes = (
            f"{len(audio)} clips gave embeddings {tuple(embeddings.shape)} "
            f"and timestamps {tuple(timestamps.shape)}"
        )
        if embeddings.ndim != 3 or len(embeddings) != len(audio) or embeddings.shape[2] != size:
            raise BrokenRuleError(f"{shapes}, expected embeddings ({len(audio)}, n_timestamps, {size})")
        if timestamps.shape != embeddings.shape[:2]:
            raise BrokenRuleError(f"{shapes}, expected timestamps {tuple(embeddings.shape[:2])}")
    return f"(n_clips, n_timestamps, {size})"


@RULES.rule(
    "timestamp-finite", "timestamp embeddings are finite, also those of silence", "extra", "timestamp-shape"
)
def _timestamp_finite(subject: Subject) -> str:
    return _finite([e for _, e, _ in subject.timestamps], called(subject.frames, _silence(subject))[0])


@RULES.rule(
    "timestamp-repeatable", "the same call gives the same timestamp embeddings", "extra", "timestamp-finite"
)
def _timestamp_repeatable(subject: Subject) -> str:
    return _repeatable(subject, lambda audio: subject.frames(audio)[0])


@RULES.rule(
    "timestamp-batch",
    "a timestamp embedding does not depend on the other clips of the call",
    "extra",
    "timestamp-repeatable",
)
def _timestamp_batch(subject: Subject) -> str:
    return _batch_independent(subject, lambda audio: subject.frames(audio)[0])


# Where it runs


@RULES.rule(
    "device",
    "the model moves to another device, and its embeddings stay the same",
    "extra",
    "scene-repeatable",
)
def _device(subject: Subject) -> str:
    if subject.device.type == "cpu":
        raise NotCheckedError("the device is the CPU; name another one")
    audio = subject.clips(1.98, 2)
    here = subject.scene(audio).detach().cpu()
    subject.model.to("cpu")
    try:
        there = subject.scene(audio.cpu()).detach().cpu()
    finally:
        subject.model.to(subject.device)
    difference = _difference(here, there)
    if difference > DEVICE_INDEPENDENT:
        raise BrokenRuleError(
            f"embeddings differ by {difference:.1e} of the largest value from those on the CPU"
        )
    return f"embeddings differ by {difference:.1e} of the largest value from those on the CPU"


# What several rules need


def _float32(tensors: Sequence[torch.Tensor]) -> str:
    others = {str(tensor.dtype) for tensor in tensors} - {"torch.float32"}
    if others:
        raise BrokenRuleError(f"expected torch.float32, got {', '.join(sorted(others))}")
    return "torch.float32"


def _silence(subject: Subject) -> torch.Tensor:
    return torch.zeros(1, int(subject.model.sample_rate), device=subject.device)


def _finite(tensors: Sequence[torch.Tensor], of_silence: torch.Tensor) -> str:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise BrokenRuleError("NaN or infinity in embeddings of noise")
    if not of_silence.isfinite().all():
        raise BrokenRuleError("NaN or infinity in embeddings of digital silence")
    return "all of them"


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    if one.shape != other.shape:
        raise BrokenRuleError(f"shapes {tuple(one.shape)} and {tuple(other.shape)} of the same clip")
    largest = float(torch.maximum(one.abs(), other.abs()).max())
    return float((one - other).abs().max()) / largest if largest else 0.0


def _repeatable(subject: Subject, embed: Callable[[torch.Tensor], torch.Tensor]) -> str:
    audio = subject.clips(1.98, 2)
    difference = _difference(embed(audio).detach().double(), embed(audio).detach().double())
    if difference > REPEATABLE:
        raise BrokenRuleError(
            f"two calls differ by {difference:.1e} of the largest value: "
            "is something random, or not in eval mode?"
        )
    return f"within {REPEATABLE:g} of the largest value"


def _batch_independent(subject: Subject, embed: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """The same clip alone, among others, and among the same others in another order."""
    audio = subject.clips(1.98, 4)
    together = embed(audio).detach().double()
    alone = torch.cat([embed(clip[None]).detach().double() for clip in audio])
    backwards = embed(audio.flip(0)).detach().double().flip(0)
    difference = max(_difference(together, alone), _difference(together, backwards))
    if difference > BATCH_INDEPENDENT:
        raise BrokenRuleError(
            f"a clip's embedding differs by {difference:.1e} of the largest value "
            "when it is alone or in another place"
        )
    return f"a clip alone differs by {difference:.1e} of the largest value"
