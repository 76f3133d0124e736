"""Results for people, as a table of text, and for programs, as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from typing import Any

from serab_byols._version import __version__
from serab_byols.probe.evaluation import FoldResult, ProbeResult
from serab_byols.probe.scores import Interval

PACKAGES = ("torch", "numpy", "scikit-learn")
HEADINGS = ("features", "accuracy", "95 % interval", "UAR", "95 % interval", "C", "accuracy by fold")
MOST_FOLDS = 10
"""With more than that, the table says how far they range instead of naming them all."""


def as_text(results: Sequence[ProbeResult]) -> str:
    """A table for every task: a line for each model or baseline, the protocol above, notes below."""
    return "\n\n".join(_task_text(list(of_task)) for _, of_task in groupby(results, attrgetter("task")))


def _task_text(results: list[ProbeResult]) -> str:
    first = results[0]
    clips_and_labels = f"{first.n_clips} clips, {len(first.labels)} labels"
    groups = f", {first.n_groups} groups" if first.n_groups < first.n_clips else ""
    lines = [
        f"{first.task}: {clips_and_labels}{groups}; "
        f"chance: accuracy {first.chance:.3f}, UAR {1 / len(first.labels):.3f}",
        *(f"  {step}: {words}" for step, words in first.protocol.items()),
        "",
        *_columns([HEADINGS, *map(_cells, results)]),
    ]
    notes = dict.fromkeys(note for result in results for note in result.notes)
    if notes:
        lines += ["", *(f"  note: {note}" for note in notes)]
    return "\n".join(lines)


def _cells(result: ProbeResult) -> tuple[str, ...]:
    return (
        result.features,
        f"{result.accuracy:.3f}",
        _interval(result.accuracy_interval),
        f"{result.uar:.3f}",
        _interval(result.uar_interval),
        _range_of_c(result.folds),
        _by_fold(result.folds),
    )


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _range_of_c(folds: Sequence[FoldResult]) -> str:
    lowest, highest = min(fold.c for fold in folds), max(fold.c for fold in folds)
    return f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}"


def _by_fold(folds: Sequence[FoldResult]) -> str:
    scores = [fold.accuracy for fold in folds]
    if len(scores) > MOST_FOLDS:
        return f"{min(scores):.3f} to {max(scores):.3f}"
    return " ".join(f"{score:.3f}" for score in scores)


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def as_json(
    results: Sequence[ProbeResult],
    *,
    manifest: str | os.PathLike[str] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Everything that is known, in types that :func:`json.dumps` takes.

    Args:
        results: from :func:`probe`.
        manifest: what they are of.
        skipped: files of clips that could not be read, and why.
    """
    return {
        "manifest": None if manifest is None else os.fspath(manifest),
        "skipped": [{"file": file, "error": error} for file, error in skipped],
        "versions": _versions(),
        "results": [_result(result) for result in results],
    }


def _result(result: ProbeResult) -> dict[str, Any]:
    values = asdict(result)
    for name in ("accuracy_interval", "uar_interval"):
        interval: Interval | None = getattr(result, name)
        values[name] = None if interval is None else interval._asdict()
    values["confusion"] = result.confusion.tolist()
    return values


def _versions() -> dict[str, str]:
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "serab-byols": __version__, **versions}
