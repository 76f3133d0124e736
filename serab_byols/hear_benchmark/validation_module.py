"""Rules on the module, its functions, and the attributes of its model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from serab_byols.hear_benchmark.hear_module import import_hear_module
from serab_byols.hear_benchmark.validation_rule import (
    BrokenRuleError,
    NotCheckedError,
    Rules,
    Subject,
    attribute,
    type_of,
)

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)
RULES = Rules()


@RULES.rule("import", "the module can be imported", "original")
def _import(subject: Subject) -> str:
    subject.module = import_hear_module(subject.name)
    return str(getattr(subject.module, "__file__", None) or "a namespace")


def _function(subject: Subject, name: str) -> Callable[..., Any]:
    function = getattr(subject.module, name, None)
    if function is None:
        raise BrokenRuleError(f"the module has no function {name}")
    if not callable(function):
        raise BrokenRuleError(f"{name} is not a function, but {type_of(function)}")
    return function


def _check_call(function: Callable[..., Any], *arguments: object) -> str:
    """That the signature takes these arguments by position, and needs no more."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "its signature cannot be inspected"
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    shown = f"{getattr(function, '__name__', 'the function')}{inspect.Signature(bare)}"
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise BrokenRuleError(f"{shown}: {error}") from None
    return shown


@RULES.rule("load_model", "there is a function load_model", "original", "import")
def _load_model(subject: Subject) -> str:
    _function(subject, "load_model")
    return "there is one"


@RULES.rule("load_model-path", "load_model takes a path as its only needed argument", "api", "load_model")
def _load_model_path(subject: Subject) -> str:
    return _check_call(subject.module.load_model, "model.pt")


@RULES.rule("load_model-default", "load_model can be called without an argument", "original", "load_model")
def _load_model_default(subject: Subject) -> str:
    return _check_call(subject.module.load_model)


@RULES.rule("load-default", "load_model() returns a model", "original", "load_model-default")
def _load_default(subject: Subject) -> str:
    model = subject.module.load_model()
    if not subject.file:
        subject.model = model
    return type_of(model)


@RULES.rule("load-file", "load_model(FILE) returns a model", "original", "load_model-path")
def _load_file(subject: Subject) -> str:
    if not subject.file:
        raise NotCheckedError("no file was given")
    subject.model = subject.module.load_model(subject.file)
    return type_of(subject.model)


@RULES.rule(
    "model-type", "the model is a PyTorch module (HEAR: or a TensorFlow module)", "original", "load_model"
)
def _model_type(subject: Subject) -> str:
    if subject.model is None:
        raise NotCheckedError("no model was loaded")
    if isinstance(subject.model, torch.nn.Module):
        subject.model.to(subject.device)
        return type_of(subject.model)
    if any(base.__module__.split(".")[0] in ("tensorflow", "keras") for base in type(subject.model).__mro__):
        raise NotCheckedError(
            f"{type_of(subject.model)} is TensorFlow's, which HEAR allows and which is not run here: "
            "only its attributes are checked"
        )
    raise BrokenRuleError(f"expected a torch.nn.Module, got {type_of(subject.model)}")


@RULES.rule(
    "sample_rate",
    f"model.sample_rate is one of {', '.join(map(str, SAMPLE_RATES))}",
    "original",
    "load_model",
)
def _sample_rate(subject: Subject) -> str:
    rate = attribute(subject, "sample_rate")
    if rate not in SAMPLE_RATES:
        raise BrokenRuleError(
            f"model.sample_rate is {rate!r}, expected one of {', '.join(map(str, SAMPLE_RATES))}"
        )
    return f"{rate} Hz"


@RULES.rule(
    "sample_rate-int",
    "model.sample_rate is an int, since it names a folder of the tasks",
    "extra",
    "sample_rate",
)
def _sample_rate_int(subject: Subject) -> str:
    return _integer(subject, "sample_rate")


@RULES.rule("scene_embedding_size", "model.scene_embedding_size is an int", "original", "load_model")
def _scene_size(subject: Subject) -> str:
    return _integer(subject, "scene_embedding_size")


@RULES.rule("timestamp_embedding_size", "model.timestamp_embedding_size is an int", "original", "load_model")
def _timestamp_size(subject: Subject) -> str:
    return _integer(subject, "timestamp_embedding_size")


def _integer(subject: Subject, name: str) -> str:
    value = attribute(subject, name)
    if not isinstance(value, int):
        raise BrokenRuleError(f"model.{name} must be an int, got {type_of(value)} {value!r}")
    return str(value)


# The functions


@RULES.rule(
    "get_scene_embeddings", "there is a function get_scene_embeddings(audio, model)", "original", "import"
)
def _get_scene_embeddings(subject: Subject) -> str:
    return _check_call(_function(subject, "get_scene_embeddings"), "audio", "model")


@RULES.rule(
    "get_timestamp_embeddings",
    "there is a function get_timestamp_embeddings(audio, model)",
    "original",
    "import",
)
def _get_timestamp_embeddings(subject: Subject) -> str:
    return _check_call(_function(subject, "get_timestamp_embeddings"), "audio", "model")
