"""A task as HEAR's preprocessing lays it out: a folder with metadata, labels, splits and audio.

task_metadata.json       what is predicted, from what, scored how
labelvocabulary.csv      idx,label
train.json               for every file its labels, or its events in milliseconds
48000/train/*.wav        the files at one rate or several
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serab_byols.corpus.decoding import AudioClip
from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.event_detection import DEFAULT_POSTPROCESSING, POSTPROCESSING_GRID
from serab_byols.hear_benchmark.event_scores import Event
from serab_byols.hear_benchmark.prediction_scores import Score, score_of_name
from serab_byols.hear_benchmark.predictor_grid import GRIDS_OF_TASKS, Grid

METADATA_FILE = "task_metadata.json"
VOCABULARY_FILE = "labelvocabulary.csv"
EMBEDDING_TYPES = ("scene", "event")
PREDICTION_TYPES = ("multiclass", "multilabel")
FOLD_MODES = ("new_split_kfold", "presplit_kfold")
SPLIT_MODES = ("trainvaltest", *FOLD_MODES)
MIN_FOLDS = 3


class DataSplit(NamedTuple):
    """Names of the files' splits that train a predictor, choose it, and test it."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class HearTask:
    """A HEAR task.

    Attributes:
        folder: where it is.
        name: from its metadata.
        embedding_type: ``"scene"`` (labels of clips) or ``"event"`` (events in clips).
        prediction_type: ``"multiclass"`` (one label) or ``"multilabel"`` (any number).
        splits: names of its splits or folds, in the order of the metadata.
        split_mode: ``"trainvaltest"`` or one of folds.
        duration_s: of every file; None if they differ.
        labels: the K labels in the order of their indices.
        scores: the first is the one to select by.
        select_by_score: predictors are chosen by the first score, else by the loss.
        task_grid: hyperparameters that the task sets.
        postprocessing_grid: of events.
        truth: for each split the files and their labels (scene), or events (event).
    """

    folder: Path
    name: str
    embedding_type: str
    prediction_type: str
    splits: tuple[str, ...]
    split_mode: str
    duration_s: float | None
    labels: tuple[str, ...]
    scores: tuple[Score, ...]
    select_by_score: bool
    task_grid: Grid
    postprocessing_grid: Mapping[str, Sequence[float]]
    truth: Mapping[str, Mapping[str, tuple[str, ...] | tuple[Event, ...]]]

    @property
    def of_events(self) -> bool:
        """Events in clips, not labels of clips."""
        return self.embedding_type == "event"

    def data_splits(self) -> list[DataSplit]:
        """One, or one for each fold: the fold tests, the next one validates, the others train."""
        if self.split_mode == "trainvaltest":
            return [DataSplit(("train",), ("valid",), ("test",))]
        folds = sorted(self.splits)
        splits = []
        for i, test in enumerate(folds):
            valid = folds[(i + 1) % len(folds)]
            train = tuple(fold for fold in folds if fold not in (test, valid))
            splits.append(DataSplit(train, (valid,), (test,)))
        return splits

    def audio_rate_hz(self, sample_rate_hz: int) -> int:
        """The rate to read files at: ``sample_rate_hz`` itself if there are such files, else the highest.

        Raises:
            InvalidInputError: there are only files of lower rates, or none.
        """
        rates = sorted(int(path.name) for path in self.folder.iterdir() if _is_rate_folder(path))
        if sample_rate_hz in rates:
            return sample_rate_hz
        if not rates:
            raise InvalidInputError(f"{self.folder} has no folder of audio, such as 48000")
        if rates[-1] < sample_rate_hz:
            raise InvalidInputError(
                f"{self.folder} has audio at {', '.join(map(str, rates))} Hz; the module needs "
                f"{sample_rate_hz} Hz or more"
            )
        return rates[-1]

    def audio_path(self, rate_hz: int, split: str, file: str) -> Path:
        """Where a file is."""
        return self.folder / str(rate_hz) / split / file

    def read_audio(self, split: str, file: str, sample_rate_hz: int) -> np.ndarray:
        """A file as mono float32 (n_samples,) at ``sample_rate_hz``, resampled if need be.

        Raises:
            AudioFileError: missing or not readable.
        """
        with AudioClip(self.audio_path(self.audio_rate_hz(sample_rate_hz), split, file)) as clip:
            return clip.read(sample_rate_hz)

    def digest(self, sample_rate_hz: int) -> str:
        """Changes with the labels and with size or time of the audio files."""
        digest = hashlib.sha256()
        for name in (METADATA_FILE, VOCABULARY_FILE, *(f"{split}.json" for split in self.splits)):
            digest.update((self.folder / name).read_bytes())
        rate_hz = self.audio_rate_hz(sample_rate_hz)
        for split in self.splits:
            for file in self.truth[split]:
                path = self.audio_path(rate_hz, split, file)
                if not path.is_file():
                    raise InvalidInputError(
                        f"{self.folder / f'{split}.json'} lists {file}, and {path} is missing"
                    )
                status = path.stat()
                digest.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()


def _is_rate_folder(path: Path) -> bool:
    return path.name.isascii() and path.name.isdigit() and path.is_dir()


def find_tasks(folder: Path, names: Iterable[str] = ()) -> list[Path]:
    """Task folders in a folder, or the folder itself if it is one.

    Args:
        folder: the tasks, or a task.
        names: of the folders wanted (or of the tasks in their metadata); by default all, by name.

    Raises:
        InvalidInputError: no such folder or task.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"the folder of tasks {folder} does not exist")
    if (folder / METADATA_FILE).is_file():
        found = [folder]
    else:
        found = sorted(path.parent for path in folder.glob(f"*/{METADATA_FILE}"))
    if not found:
        raise InvalidInputError(f"{folder} has no folders with a {METADATA_FILE}")
    chosen = [_of_name(name, found) for name in names]
    return list(dict.fromkeys(chosen)) or found


def _of_name(name: str, found: Sequence[Path]) -> Path:
    for path in found:
        if name in (path.name, path.resolve().name):
            return path
    for path in found:
        if _read_json(path / METADATA_FILE).get("task_name") == name:
            return path
    raise InvalidInputError(
        f"there is no task {name!r}; there are {', '.join(p.resolve().name for p in found)}"
    )


def read_task(folder: Path) -> HearTask:
    """Read a task and check it; audio files are not opened.

    Raises:
        InvalidInputError: something is missing in the folder or its files, or contradicts something else.
    """
    metadata = _Metadata(folder / METADATA_FILE)
    embedding_type = metadata.one_of("embedding_type", EMBEDDING_TYPES)
    prediction_type = metadata.one_of("prediction_type", PREDICTION_TYPES)
    split_mode = metadata.one_of("split_mode", SPLIT_MODES)
    splits = metadata.names("splits")
    if split_mode == "trainvaltest":
        if set(splits) != {"train", "valid", "test"}:
            raise metadata.error("splits", splits, "train, valid and test")
    elif len(splits) < MIN_FOLDS:
        raise metadata.error("splits", splits, f"{MIN_FOLDS} folds or more")
    duration_s = metadata.get("sample_duration")
    if duration_s is not None and not (_is_number(duration_s) and duration_s > 0):
        raise metadata.error("sample_duration", duration_s, "seconds or null")
    scores = tuple(score_of_name(name) for name in metadata.names("evaluation"))
    if not scores or any(score.of_events != (embedding_type == "event") for score in scores):
        raise metadata.error("evaluation", metadata.get("evaluation"), f"scores of {embedding_type} tasks")
    labels = _read_vocabulary(folder / VOCABULARY_FILE)
    parameters = metadata.mapping("evaluation_params")
    name = str(metadata.get("task_name"))
    return HearTask(
        folder=folder,
        name=name,
        embedding_type=embedding_type,
        prediction_type=prediction_type,
        splits=splits,
        split_mode=split_mode,
        duration_s=duration_s,
        labels=labels,
        scores=scores,
        select_by_score=bool(metadata.values.get("use_scoring_for_early_stopping", True)),
        task_grid={**GRIDS_OF_TASKS.get(name, {}), **parameters.get("task_specific_param_grid", {})},
        postprocessing_grid=_postprocessing_grid(metadata, parameters),
        truth={
            split: _read_truth(folder / f"{split}.json", embedding_type, prediction_type, set(labels))
            for split in splits
        },
    )


def _postprocessing_grid(metadata: _Metadata, parameters: Mapping[str, Any]) -> Mapping[str, Sequence[float]]:
    grid = parameters.get("event_postprocessing_grid", POSTPROCESSING_GRID)
    is_grid = isinstance(grid, dict) and set(grid) <= set(DEFAULT_POSTPROCESSING) and grid
    if not (is_grid and all(isinstance(v, list) and v and all(map(_is_number, v)) for v in grid.values())):
        expected = f"lists of numbers for {', '.join(DEFAULT_POSTPROCESSING)}"
        raise metadata.error("event_postprocessing_grid", grid, expected)
    return grid


class _Metadata:
    """``task_metadata.json``, with errors that name what is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = _read_json(path)

    def error(self, key: str, value: object, expected: str) -> InvalidInputError:
        return InvalidInputError(f"{self.path}: {key} is {value!r}; expected {expected}")

    def get(self, key: str) -> Any:
        if key not in self.values:
            raise InvalidInputError(f"{self.path} lacks {key!r}")
        return self.values[key]

    def one_of(self, key: str, choices: Sequence[str]) -> str:
        value = self.get(key)
        if value not in choices:
            raise self.error(key, value, f"one of {', '.join(choices)}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self.get(key)
        is_list = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
        if not is_list or len(set(value)) < len(value) or any(Path(name).name != name for name in value):
            raise self.error(key, value, "a list of distinct names")
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        for grid in value.values():
            if not (isinstance(grid, dict) and all(isinstance(v, list) and v for v in grid.values())):
                raise self.error(key, value, "grids, with a list of values for each parameter")
        return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path} is a JSON {type(content).__name__}; expected an object")
    return content


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        labels = {int(row["idx"]): row["label"] for row in rows}
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InvalidInputError(f"{path} is not a table with the columns idx and label") from error
    if not rows or sorted(labels) != list(range(len(rows))) or len(set(labels.values())) < len(rows):
        raise InvalidInputError(f"{path}: the {len(rows)} labels must be distinct, with indices from 0")
    return tuple(labels[i] for i in range(len(rows)))


def _read_truth(
    path: Path, embedding_type: str, prediction_type: str, labels: set[str]
) -> Mapping[str, tuple[str, ...] | tuple[Event, ...]]:
    truth: dict[str, Any] = {}
    for file, values in _read_json(path).items():
        if not isinstance(values, list):
            raise InvalidInputError(f"{path}: {file} has {values!r}; expected a list")
        if Path(file).name != file:
            raise InvalidInputError(f"{path}: {file!r} is not the name of a file")
        truth[file] = (
            tuple(_event(path, file, value) for value in values)
            if embedding_type == "event"
            else tuple(str(value) for value in values)
        )
        named = {value.label if isinstance(value, Event) else value for value in truth[file]}
        if not named <= labels:
            raise InvalidInputError(
                f"{path}: {file} has the label {min(named - labels)!r}, which the vocabulary lacks"
            )
        if embedding_type == "scene" and prediction_type == "multiclass" and len(values) != 1:
            raise InvalidInputError(f"{path}: {file} has {len(values)} labels; expected one")
    if not truth:
        raise InvalidInputError(f"{path} lists no files")
    return truth


def _event(path: Path, file: str, value: Any) -> Event:
    try:
        event = Event(str(value["label"]), float(value["start"]), float(value["end"]))
    except (KeyError, TypeError, ValueError):
        raise InvalidInputError(
            f"{path}: {file} has the event {value!r}; expected label, start and end (in milliseconds)"
        ) from None
    if not 0 <= event.start_ms <= event.end_ms < math.inf:
        raise InvalidInputError(f"{path}: {file} has an event from {event.start_ms:g} to {event.end_ms:g} ms")
    return event


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
