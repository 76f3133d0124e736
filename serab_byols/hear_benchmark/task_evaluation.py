"""HEAR's evaluation of a module on tasks (arXiv 2203.03022, section 4): embed, train predictors, test.

Whatever is finished is kept in the output folder, so a killed evaluation goes on from there:

    evaluation.json                what was asked for
    TASK/embeddings/*.npz          embeddings of some files each
    TASK/predictors/*.safetensors  a trained predictor each, with its validation score in its header
    TASK/result.json               the task's scores
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from serab_byols.atomic_write import atomic_write
from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.embedding_cache import Embedded, Progress, embed_split
from serab_byols.hear_benchmark.embedding_module import HearModule
from serab_byols.hear_benchmark.prediction_scores import check_can_score
from serab_byols.hear_benchmark.predictor_grid import N_GRID_POINTS, SEED, GridPoint, grid_points
from serab_byols.hear_benchmark.predictor_stack import (
    logits_of_state,
    prediction_losses,
    probabilities,
    stacks_of,
)
from serab_byols.hear_benchmark.predictor_training import (
    ROWS_PER_FORWARD,
    Criterion,
    TrainedPredictor,
    train_predictors,
)
from serab_byols.hear_benchmark.split_data import (
    SplitData,
    best_postprocessing,
    scores_of_clips,
    scores_of_events,
    shuffled,
    split_data,
)
from serab_byols.hear_benchmark.task_folder import DataSplit, HearTask

RESULT_FILE = "result.json"
REQUEST_FILE = "evaluation.json"


@dataclass(frozen=True)
class Protocol:
    """How predictors are searched.

    Attributes:
        grid: ``"default"``, ``"fast"`` or ``"faster"``.
        n_grid_points: how many of its points are tried.
        seed: of the points' draw, initial weights and dropout.
    """

    grid: str = "default"
    n_grid_points: int = N_GRID_POINTS
    seed: int = SEED


@dataclass(frozen=True)
class TaskResult:
    """Scores of a module on a task.

    Attributes:
        task: its name.
        primary: name of the score that counts.
        scores: for each test split: ``loss``, all scores, ``validation_score`` and ``epoch``.
        aggregated: for several folds, each of these as ``_mean`` and ``_std`` (of a sample).
        hyperparameters: of the best grid point.
        grid: the validation score of each grid point that was tried, best first.
        postprocessing: of events, for each test split.
        n_files: in each split.
        embedding_size: D.
    """

    task: str
    primary: str
    scores: dict[str, dict[str, float]]
    aggregated: dict[str, float]
    hyperparameters: dict[str, Any]
    grid: list[dict[str, Any]]
    postprocessing: dict[str, dict[str, float]]
    n_files: dict[str, int]
    embedding_size: int

    @property
    def primary_score(self) -> float:
        """Of the test, or its mean over the folds."""
        if self.aggregated:
            return self.aggregated[f"{self.primary}_mean"]
        (scores,) = self.scores.values()
        return scores[self.primary]


def evaluate_tasks(
    module: HearModule,
    tasks: Sequence[HearTask],
    folder: Path,
    protocol: Protocol,
    request: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> list[TaskResult]:
    """Evaluate a module on tasks.

    Args:
        module: any of the common API.
        tasks: from :func:`read_task`.
        folder: of intermediate and final results; an earlier run with the same arguments is gone on with.
        protocol: of the predictors.
        request: facts that make the evaluation (the weights, options), compared to those of the folder.
        on_progress: told what is done.

    Raises:
        MissingExtraError: the extra ``hear`` is not installed.
        InvalidInputError: the folder is of another evaluation, or a task has changed since; tasks of the
            same name; see :func:`embed_split` too.
    """
    check_can_score()
    names = [task.name for task in tasks]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InvalidInputError(
            f"{names.count(doubled[0])} folders have the task {doubled[0]!r}; evaluate them one at a time"
        )
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "module": module.name,
        "module_version": module.version,
        "sample_rate_hz": module.sample_rate_hz,
        "grid": protocol.grid,
        "n_grid_points": protocol.n_grid_points,
        "seed": protocol.seed,
        **(request or {}),
    }
    _check_same(folder / REQUEST_FILE, asked)
    return [_evaluate_task(module, task, folder / task.name, protocol, on_progress) for task in tasks]


def _check_same(path: Path, facts: Mapping[str, Any]) -> None:
    """The facts are those that the file has; if there is no file yet, it is written."""
    facts = json.loads(json.dumps(facts))
    if not path.is_file():
        _write_json(path, facts)
        return
    before = _read_json(path)
    for name in (*facts, *before):
        if facts.get(name) != before.get(name):
            raise InvalidInputError(
                f"{path.parent} is of an evaluation with {name} {before.get(name)!r}, now it is "
                f"{facts.get(name)!r}: choose another folder, or remove this one"
            )


def _evaluate_task(
    module: HearModule, task: HearTask, folder: Path, protocol: Protocol, on_progress: Progress | None
) -> TaskResult:
    folder.mkdir(exist_ok=True)
    _check_same(folder / "task.json", {"task": task.name, "digest": task.digest(module.sample_rate_hz)})
    result = folder / RESULT_FILE
    if not result.is_file():
        points = grid_points(protocol.grid, task.task_grid, protocol.n_grid_points, protocol.seed)
        embedded = {
            split: embed_split(task, split, module, folder / "embeddings", on_progress)
            for split in task.splits
        }
        search = _Search(task, embedded, folder / "predictors", protocol, module.device, on_progress)
        _write_json(result, search.result(points))
    return TaskResult(**_with_numbers(_read_json(result)))


class _Search:
    """The best predictor of the first data split, its like on the others, and their tests."""

    def __init__(
        self,
        task: HearTask,
        embedded: Mapping[str, Embedded],
        folder: Path,
        protocol: Protocol,
        device: torch.device,
        on_progress: Progress | None,
    ) -> None:
        self.task = task
        self.embedded = shuffled(task, embedded)
        self.folder = folder
        self.protocol = protocol
        self.device = device
        self.on_progress = on_progress
        self.multiclass = task.prediction_type == "multiclass"
        folder.mkdir(exist_ok=True)

    def result(self, points: Sequence[GridPoint]) -> dict[str, Any]:
        data_splits = self.task.data_splits()
        tried = self._trained(points, data_splits[0], 0)
        sign = self._sign()
        ranked = sorted(tried, key=lambda predictor: -sign * predictor.validation_score)
        chosen = [ranked[0]]
        for i, split in enumerate(data_splits[1:], start=1):
            chosen += self._trained([ranked[0].point], split, i)
        scores = {
            "|".join(split.test): self._test(predictor, split)
            for predictor, split in zip(chosen, data_splits)
        }
        return {
            "task": self.task.name,
            "primary": self.task.scores[0].name,
            "scores": scores,
            "aggregated": _aggregated(list(scores.values())) if len(scores) > 1 else {},
            "hyperparameters": ranked[0].point.as_json(),
            "grid": [
                {"validation_score": predictor.validation_score, "epoch": predictor.epoch}
                | predictor.point.as_json()
                for predictor in ranked
            ],
            "postprocessing": {
                "|".join(split.test): predictor.facts["postprocessing"]
                for predictor, split in zip(chosen, data_splits)
                if "postprocessing" in predictor.facts
            },
            "n_files": {split: len(self.embedded[split].files) for split in self.task.splits},
            "embedding_size": self.embedded[self.task.splits[0]].embeddings[0].shape[-1],
        }

    def _sign(self) -> float:
        criterion_is_score = self.task.select_by_score and self.task.scores[0].higher_is_better
        return 1.0 if criterion_is_score else -1.0

    def _trained(self, points: Sequence[GridPoint], split: DataSplit, fold: int) -> list[TrainedPredictor]:
        """A predictor for each point, in their order."""
        data: tuple[SplitData, SplitData] | None = None
        trained: dict[int, TrainedPredictor] = {}
        for positions in stacks_of(points):
            paths = [self.folder / f"fold{fold:02d}-point{i:03d}.safetensors" for i in positions]
            if not all(path.is_file() for path in paths):
                data = data or (self._data(split.train), self._data(split.valid))
                predictors = self._train([points[i] for i in positions], positions, fold, *data)
                for path, predictor in zip(paths, predictors):
                    _save(path, predictor)
            trained |= {i: _load(path, points[i]) for i, path in zip(positions, paths)}
            self._tell(f"{self.task.name}: predictors for {split.test[0]}", len(trained), len(points))
        return [trained[i] for i in range(len(points))]

    def _train(
        self,
        points: Sequence[GridPoint],
        positions: Sequence[int],
        fold: int,
        train: SplitData,
        valid: SplitData,
    ) -> list[TrainedPredictor]:
        if len(train.rows.x) < 2:
            raise InvalidInputError(f"{self.task.folder}: two clips at least are needed to train")
        seeds = [
            int(np.random.SeedSequence((self.protocol.seed, fold, i)).generate_state(1)[0]) for i in positions
        ]
        criterion = Criterion(self._validation_score(valid), self.task.scores[0].higher_is_better)
        predictors = train_predictors(points, seeds, train.rows, valid.rows, criterion, self.multiclass)
        for predictor in predictors:
            if not predictor.state:
                raise InvalidInputError(
                    f"{self.task.folder}: the grid validates every {predictor.point.check_val_every_n_epoch} "
                    f"epochs, and training has {predictor.point.max_epochs}"
                )
            if self.task.of_events and "postprocessing" not in predictor.facts:
                predictor.facts["postprocessing"] = self._only_postprocessing()
        return predictors

    def _only_postprocessing(self) -> dict[str, float]:
        grid = self.task.postprocessing_grid
        if any(len(values) > 1 for values in grid.values()):
            raise InvalidInputError(
                f"{self.task.folder}: where predictors are selected by their loss, the grid of "
                "post-processing can have one value each"
            )
        return {name: values[0] for name, values in grid.items()}

    def _validation_score(self, valid: SplitData) -> Any:
        if not self.task.select_by_score:
            return None
        if self.task.of_events:
            return lambda predicted: best_postprocessing(self.task, predicted, valid)
        first, truth = self.task.scores[0], valid.rows.y.cpu().numpy()
        return lambda predicted: (first(predicted, truth, self.task.labels)[first.name], {})

    def _test(self, predictor: TrainedPredictor, split: DataSplit) -> dict[str, float]:
        data = self._data(split.test)
        state = {name: tensor.to(self.device) for name, tensor in predictor.state.items()}
        logits = torch.cat([logits_of_state(state, x) for x in data.rows.x.split(ROWS_PER_FORWARD)])
        predicted = probabilities(logits, self.multiclass).cpu().numpy()
        if self.task.of_events:
            scores = scores_of_events(self.task, predicted, data, predictor.facts["postprocessing"])
        else:
            scores = scores_of_clips(self.task, predicted, data)
        return {
            "loss": float(prediction_losses(logits[None], data.rows.y, self.multiclass)),
            **scores,
            "validation_score": predictor.validation_score,
            "epoch": float(predictor.epoch),
        }

    def _data(self, splits: Sequence[str]) -> SplitData:
        return split_data(self.task, self.embedded, splits, self.device)

    def _tell(self, stage: str, n_done: int, n_total: int) -> None:
        if self.on_progress:
            self.on_progress(stage, n_done, n_total)


def _aggregated(folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and sample standard deviation of each score over the folds."""
    aggregated = {}
    for name in folds[0]:
        values = [fold[name] for fold in folds]
        aggregated[f"{name}_mean"] = statistics.fmean(values)
        with np.errstate(invalid="ignore"):  # a perfect d' is infinite
            aggregated[f"{name}_std"] = float(np.std(values, ddof=1))
    return aggregated


def _save(path: Path, predictor: TrainedPredictor) -> None:
    from safetensors.torch import save_file

    header = {
        "point": predictor.point.as_json(),
        "validation_score": predictor.validation_score,
        "epoch": predictor.epoch,
        "facts": predictor.facts,
    }
    with atomic_write(path) as scratch:
        save_file(predictor.state, scratch, {"predictor": json.dumps(_without_nan(header))})


def _load(path: Path, point: GridPoint) -> TrainedPredictor:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = _with_numbers(json.loads(file.metadata()["predictor"]))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return TrainedPredictor(point, header["validation_score"], header["epoch"], header["facts"], state)


_NOT_IN_JSON = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def _without_nan(value: Any) -> Any:
    """With NaN and infinities, which JSON lacks, as strings."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _with_numbers(value: Any) -> Any:
    """The reverse of :func:`_without_nan`."""
    if isinstance(value, dict):
        return {name: _with_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return _NOT_IN_JSON.get(value, value) if isinstance(value, str) else value


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as scratch:
        text = json.dumps(_without_nan(dict(content)), indent=2, allow_nan=False)
        scratch.write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
