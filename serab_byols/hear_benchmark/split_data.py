"""Embedded files of a task's splits as rows for a predictor, and predictions of the rows as scores."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.embedding_cache import Embedded
from serab_byols.hear_benchmark.event_detection import (
    active_labels,
    events_from_predictions,
    postprocessing_choices,
)
from serab_byols.hear_benchmark.event_scores import Event
from serab_byols.hear_benchmark.predictor_training import LabelledRows
from serab_byols.hear_benchmark.task_folder import HearTask


@dataclass(frozen=True)
class SplitData:
    """One split's rows, or several splits' one after the other.

    Attributes:
        rows: of clips, or of timestamps of clips.
        files: the files in the rows' order.
        timestamps_ms: (T,) for each file of an event task.
        events: what happens in each file of an event task.
    """

    rows: LabelledRows
    files: tuple[str, ...]
    timestamps_ms: tuple[np.ndarray, ...]
    events: Mapping[str, Sequence[Event]]


def shuffled(task: HearTask, embedded: Mapping[str, Embedded]) -> dict[str, Embedded]:
    """The files of each split in the order of HEAR's kit: shuffled once, the same way at every run."""
    order = random.Random(0)
    result = {}
    for split in task.splits:
        whole = embedded[split]
        positions = list(range(len(whole.files)))
        order.shuffle(positions)
        result[split] = Embedded(
            tuple(whole.files[i] for i in positions),
            tuple(whole.embeddings[i] for i in positions),
            tuple(whole.timestamps_ms[i] for i in positions) if whole.timestamps_ms else (),
        )
    return result


def split_data(
    task: HearTask, embedded: Mapping[str, Embedded], splits: Sequence[str], device: torch.device
) -> SplitData:
    """Rows of some splits.

    Raises:
        InvalidInputError: a file is in two of the splits, or a row of a multiclass task of events has not
            just one label.
    """
    files = tuple(file for split in splits for file in embedded[split].files)
    if len(set(files)) < len(files):
        raise InvalidInputError(f"{task.folder}: {' and '.join(splits)} have files in common")
    embeddings = [rows for split in splits for rows in embedded[split].embeddings]
    truth: dict[str, Any] = {
        file: task.truth[split][file] for split in splits for file in embedded[split].files
    }
    if task.of_events:
        times = tuple(of_file for split in splits for of_file in embedded[split].timestamps_ms)
        active = [active_labels(truth[file], of_file, task.labels) for file, of_file in zip(files, times)]
        x, y = np.concatenate(embeddings), np.concatenate(active)
        if task.prediction_type == "multiclass" and not (y.sum(axis=1) == 1).all():
            raise InvalidInputError(f"{task.folder}: in a multiclass task every timestamp needs one event")
    else:
        times = ()
        x = np.stack(embeddings)
        y = np.array([[label in truth[file] for label in task.labels] for file in files])
    rows = LabelledRows(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device, torch.float32))
    return SplitData(rows, files, times, truth if task.of_events else {})


def scores_of_clips(task: HearTask, predicted: np.ndarray, data: SplitData) -> dict[str, float]:
    """All scores of a task of scenes, from probabilities (n_clips, K)."""
    truth = data.rows.y.cpu().numpy()
    return {
        name: value for score in task.scores for name, value in score(predicted, truth, task.labels).items()
    }


def scores_of_events(
    task: HearTask, predicted: np.ndarray, data: SplitData, postprocessing: Mapping[str, float]
) -> dict[str, float]:
    """All scores of a task of events, from probabilities (N, K) of the timestamps of all files."""
    detected = _detected(task, predicted, data, postprocessing)
    return {
        name: value
        for score in task.scores
        for name, value in score(detected, data.events, task.labels).items()
    }


def best_postprocessing(
    task: HearTask, predicted: np.ndarray, data: SplitData
) -> tuple[float, dict[str, Any]]:
    """The first score with the post-processing that makes it best, and that post-processing."""
    first = task.scores[0]
    sign = 1.0 if first.higher_is_better else -1.0
    reached = []
    for postprocessing in postprocessing_choices(task.postprocessing_grid):
        detected = _detected(task, predicted, data, postprocessing)
        value = first(detected, data.events, task.labels)[first.name]
        reached.append((0.0 if math.isnan(value) else sign * value, value, postprocessing))
    best = max(reversed(reached), key=lambda choice: choice[0])  # of equals the last
    return best[1], {"postprocessing": best[2]}


def _detected(
    task: HearTask, predicted: np.ndarray, data: SplitData, postprocessing: Mapping[str, float]
) -> dict[str, list[Event]]:
    ends = np.cumsum([len(times) for times in data.timestamps_ms])[:-1]
    return {
        file: events_from_predictions(of_file, times, task.labels, postprocessing)
        for file, of_file, times in zip(data.files, np.split(predicted, ends), data.timestamps_ms)
    }
