"""The rules of the HEAR common API, each checked on its own, for any module.

The common API is in appendix B of arXiv 2203.03022. A rule is *original* where the validator of 2021
refuses a module that breaks it, *api* where the API or the challenge's rules ask for it and that validator
only warns or does not look, and *extra* where HEAR does not ask, but users of the embeddings rely on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from serab_byols.hear_benchmark import validation_embeddings, validation_module, validation_timestamps
from serab_byols.hear_benchmark.hear_module import current_folder_importable
from serab_byols.hear_benchmark.validation_rule import BrokenRuleError, NotCheckedError, Origin, Rule, Subject

RULES = (*validation_module.RULES, *validation_embeddings.RULES, *validation_timestamps.RULES)
"""In the order in which they are checked."""

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """What one rule says of a module.

    Attributes:
        rule: its name.
        states: the rule in words.
        origin: who asks for it: ``"original"``, ``"api"`` or ``"extra"``.
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        detail: what was found; for a failure what is wrong, for a skipped rule why.
    """

    rule: str
    states: str
    origin: Origin
    outcome: Outcome
    detail: str


def validate(
    module: str,
    model_file: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    long: bool = False,
) -> Iterator[Verdict]:
    """Check a module against every rule of the HEAR common API.

    Args:
        module: its name; from what is installed, or from the current folder.
        model_file: weights to give to ``load_model``; the other rules are then checked with this model.
        device: where the model and the audio are.
        long: also 20 minutes of audio, in a process of its own.

    Yields:
        A verdict for each rule, when it has been checked. Whatever the module raises becomes a verdict.
    """
    subject = Subject(module, os.fspath(model_file or ""), torch.device(device), long)
    outcomes: dict[str, Outcome] = {}
    with current_folder_importable():
        for rule in RULES:
            outcome, detail = _outcome(rule, subject, outcomes)
            outcomes[rule.name] = outcome
            yield Verdict(rule.name, rule.states, rule.origin, outcome, " ".join(detail.split()))


def _outcome(rule: Rule, subject: Subject, outcomes: dict[str, Outcome]) -> tuple[Outcome, str]:
    missing = [name for name in rule.needs if outcomes[name] != "passed"]
    if missing:
        return "skipped", f"it needs {missing[0]}, which {outcomes[missing[0]].replace('skip', 'was skip')}"
    try:
        return "passed", rule.check(subject)
    except NotCheckedError as reason:
        return "skipped", str(reason)
    except BrokenRuleError as reason:
        return "failed", str(reason)
    except (Exception, SystemExit) as error:
        return "failed", f"{type(error).__name__}: {error}"


def succeeded(verdicts: Sequence[Verdict]) -> bool:
    """No rule is broken, and the embeddings were looked at."""
    outcomes = {verdict.rule: verdict.outcome for verdict in verdicts}
    return "failed" not in outcomes.values() and outcomes["model-type"] == "passed"
