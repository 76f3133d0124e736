"""The labelled clips that benchmarks of accuracy use: the three tasks beside the repository, or anybody's."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serab_byols.checkpoint.registry import bundled
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.probe.evaluation import evaluate
from serab_byols.probe.manifest import Task, read_manifest
from serab_byols.probe.splitting import make_plan

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT.parent / "shared" / "data" / "eval" / "manifest.csv"
N_SHOTS, N_DRAWS = 8, 10
"""Of MAEB's protocol."""


@dataclass(frozen=True)
class LabelledTasks:
    """Tasks, and the clips of all of them.

    Attributes:
        tasks: at least one.
        segments: distinct clips, in the order of the tasks.
    """

    tasks: tuple[Task, ...]
    segments: tuple[Segment, ...]

    def digest(self) -> str:
        """What tells these clips and labels from others."""
        rows = [(s.file, s.start_s, s.end_s) for s in self.segments]
        labels = [(task.name, task.labels, dict(task.columns)) for task in self.tasks]
        return hashlib.sha256(json.dumps([rows, labels]).encode()).hexdigest()

    def scores(self, features: np.ndarray) -> dict[str, dict[str, float]]:
        """By task: accuracy by the full and the few-shot protocol of the probe.

        Args:
            features: (n, D) of the segments, in their order.
        """
        position = {segment: i for i, segment in enumerate(self.segments)}
        scores = {}
        for task in self.tasks:
            of_task = features[[position[segment] for segment in task.segments]]
            options: dict[str, Any] = {"name": "", "description": {}, "shots": N_SHOTS, "n_draws": N_DRAWS}
            result = evaluate(task, make_plan(task), of_task, **options)
            assert result.few_shot is not None
            scores[task.name] = {
                "accuracy": result.accuracy,
                "few_shot": result.few_shot.accuracy,
                "few_shot_std": result.few_shot.accuracy_std,
            }
        return scores


def add_task_option(parser: argparse.ArgumentParser) -> None:
    """``--task``, which may be repeated."""
    parser.add_argument(
        "--task",
        action="append",
        type=_named_manifest,
        metavar="NAME=MANIFEST",
        help="labelled clips, as `serab-byols probe` takes them: rows whose column 'task' is NAME, or all "
        "of a list without such a column; may be repeated (default: the tasks of ../shared/data/eval)",
    )


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """``--model``, which may be repeated."""
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="CKPT",
        help="a checkpoint, or the name of published weights, to measure beside the bundled ones",
    )


def named_weights(more: Sequence[str]) -> dict[str, str]:
    """Paths, or names, of the bundled checkpoints and of others by the names that tables have for them."""
    paths = {name: str(path) for name, path in bundled().items()}
    return paths | {Path(text).stem: text for text in more}


def _named_manifest(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"expected NAME=MANIFEST, got {text!r}")
    return name, Path(path)


def read_tasks(named: Sequence[tuple[str, Path]] | None) -> LabelledTasks:
    """The tasks of the command line, or those beside the repository.

    Raises:
        SystemExit: there is nothing to measure with.
        InvalidInputError: a list cannot be read, or has several tasks and none of that name.
    """
    if named:
        tasks = [_named_task(name, path) for name, path in named]
    elif MANIFEST.is_file():
        tasks = read_manifest(MANIFEST)
    else:
        raise SystemExit(f"{MANIFEST} is not there: name labelled clips by --task NAME=MANIFEST")
    segments = dict.fromkeys(segment for task in tasks for segment in task.segments)
    return LabelledTasks(tuple(tasks), tuple(segments))


def _named_task(name: str, path: Path) -> Task:
    tasks = read_manifest(path)
    for task in tasks:
        if task.name == name:
            return task
    if len(tasks) > 1:
        names = ", ".join(task.name for task in tasks)
        raise InvalidInputError(f"{path} has no task {name!r}; it has {names}")
    return replace(tasks[0], name=name)


def score_cells(scores: dict[str, dict[str, float]] | None, tasks: Sequence[str]) -> list[str]:
    """For a table: a cell a task, ``0.910 (0.758)``, full and few-shot."""
    if scores is None:
        return [""] * len(tasks)
    return [f"{scores[task]['accuracy']:.3f} ({scores[task]['few_shot']:.3f})" for task in tasks]
