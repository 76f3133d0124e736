"""From events to the labels of timestamps, to train on, and from predictions back to events."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from serab_byols.hear_benchmark.event_scores import Event

DEFAULT_POSTPROCESSING = {"median_filter_ms": 150.0, "min_duration": 60.0, "threshold": 0.5}
"""Of what a task's grid does not set."""

_END_MS = 0.0001
"""An event's end still belongs to it."""

Postprocessing = Mapping[str, float]
"""``median_filter_ms``, ``min_duration`` (in milliseconds too) and ``threshold``, as HEAR names them."""

POSTPROCESSING_GRID = {"median_filter_ms": [250.0], "min_duration": [125.0, 250.0]}
"""Searched on the validation events, where a task does not say otherwise."""


def active_labels(events: Sequence[Event], timestamps_ms: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Which events are active at which timestamps.

    Args:
        events: of one file.
        timestamps_ms: (T,).
        labels: the K of the task.

    Returns:
        (T, K) bool.
    """
    column = {label: i for i, label in enumerate(labels)}
    times = timestamps_ms.astype(np.float64)
    active = np.zeros((len(times), len(labels)), dtype=bool)
    for event in events:
        active[(event.start_ms <= times) & (times < event.end_ms + _END_MS), column[event.label]] = True
    return active


def events_from_predictions(
    predictions: np.ndarray,
    timestamps_ms: np.ndarray,
    labels: Sequence[str],
    postprocessing: Postprocessing,
) -> list[Event]:
    """Stretches of neighbouring timestamps at which a label is predicted, those that last long enough.

    Args:
        predictions: (T, K) probabilities, of one file.
        timestamps_ms: (T,) rising.
        labels: the K of the task.
        postprocessing: the predictions are filtered by a median over ``median_filter_ms`` (0: not at all)
            before they are compared to ``threshold``; shorter events than ``min_duration`` are dropped.
            Events last from their first to their last timestamp.

    Returns:
        The events by their onset.
    """
    from scipy.ndimage import median_filter

    settings = {**DEFAULT_POSTPROCESSING, **postprocessing}
    times = timestamps_ms.astype(np.float64)
    if settings["median_filter_ms"] and len(times) > 1:
        width = round(settings["median_filter_ms"] / float(np.mean(np.diff(times))))
        if width:
            predictions = median_filter(predictions, size=(width, 1))
    edges = np.diff((predictions > settings["threshold"]).astype(np.int8), axis=0, prepend=0, append=0)
    events = []
    for i, label in enumerate(labels):
        starts = times[np.flatnonzero(edges[:, i] == 1)]
        ends = times[np.flatnonzero(edges[:, i] == -1) - 1]
        long_enough = ends - starts >= settings["min_duration"]
        events += [Event(label, float(s), float(e)) for s, e in zip(starts[long_enough], ends[long_enough])]
    return sorted(events, key=lambda event: event.start_ms)


def postprocessing_choices(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """All combinations; of equally good ones the last is the one to take."""
    names = sorted(grid)
    choices = itertools.product(*(sorted(grid[name]) for name in names))
    return [dict(zip(names, choice)) for choice in choices]
