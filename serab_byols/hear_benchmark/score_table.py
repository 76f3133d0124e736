"""Scores of an evaluation as a table and as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, cast

from serab_byols._version import __version__
from serab_byols.hear_benchmark.task_evaluation import TaskResult

PACKAGES = ("torch", "numpy", "scikit-learn", "scipy")
_NOT_SCORES = ("validation_score", "epoch")


def as_table(results: Sequence[TaskResult]) -> str:
    """A line for each task and score, the one that counts first; of folds the mean and the deviation."""
    rows = [("task", "score", "test", "validation")]
    for result in results:
        for name in _names(result):
            is_primary = name == result.primary
            valid = _value(result, "validation_score") if is_primary else ""
            rows.append((result.task if is_primary else "", name, _value(result, name), valid))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _names(result: TaskResult) -> list[str]:
    of_any_fold = next(iter(result.scores.values()))
    others = [name for name in of_any_fold if name not in (*_NOT_SCORES, result.primary, "loss")]
    return [result.primary, *others]


def _value(result: TaskResult, name: str) -> str:
    if result.aggregated:
        return f"{result.aggregated[f'{name}_mean']:.3f} ± {result.aggregated[f'{name}_std']:.3f}"
    (scores,) = result.scores.values()
    return f"{scores[name]:.3f}"


def as_json(results: Sequence[TaskResult], request: Mapping[str, Any]) -> dict[str, Any]:
    """All results, what was asked for, and the versions that answered."""
    versions = {"python": platform.python_version(), "serab-byols": __version__}
    report = {
        "evaluation": dict(request),
        "versions": versions | {name: version(name) for name in PACKAGES},
        "scores": {result.task: result.primary_score for result in results},
        "results": [asdict(result) for result in results],
    }
    return cast("dict[str, Any]", _without_nan(report))


def _without_nan(value: Any) -> Any:
    """With None for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
