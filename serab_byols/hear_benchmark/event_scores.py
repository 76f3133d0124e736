"""Scores of detected sound events, as sed_eval defines them, summed over files and labels.

Mesaros, Heittola and Virtanen, *Metrics for Polyphonic Sound Event Detection*, Applied Sciences 2016.
sed_eval itself needs a package that does not import on Python 3.12 and later without an old setuptools.
The tests hold its numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MS_PER_S = 1000.0


class Event(NamedTuple):
    """A labelled interval of a file, in milliseconds."""

    label: str
    start_ms: float
    end_ms: float


Events = Mapping[str, Sequence[Event]]
"""The events of each file, by its name."""


class FMeasure(NamedTuple):
    """F-measure, precision and recall; NaN where nothing was detected, or nothing was there."""

    f_measure: float
    precision: float
    recall: float


def event_based_f_measure(
    detected: Events, actual: Events, collar_s: float, offset_share: float | None = None
) -> FMeasure:
    """How many events were detected, each by one detection of its label with its onset (and offset).

    Args:
        detected, actual: events by file; files of ``detected`` are compared.
        collar_s: most distance in seconds between an event's onset and that of its detection.
        offset_share: if given, the offset may be off by ``collar_s`` or this share of the event's length,
            whichever is longer; by default any offset will do.
    """
    n_correct = n_detected = n_actual = 0
    for file, detections in detected.items():
        events = actual.get(file, ())
        n_detected += len(detections)
        n_actual += len(events)
        by_label = _by_label(detections)
        for label, of_label in _by_label(events).items():
            if label in by_label:
                n_correct += _n_matched(_hits(by_label[label], of_label, collar_s, offset_share))
    precision = n_correct / n_detected if n_detected else math.nan
    recall = n_correct / n_actual if n_actual else math.nan
    if precision == recall == 0:
        return FMeasure(0.0, precision, recall)
    return FMeasure(2 * precision * recall / (precision + recall), precision, recall)


def _by_label(events: Sequence[Event]) -> dict[str, np.ndarray]:
    """Onsets and offsets in seconds, (n, 2) float64 for each label."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        times[event.label].append((event.start_ms / MS_PER_S, event.end_ms / MS_PER_S))
    return {label: np.array(pairs) for label, pairs in times.items()}


def _hits(
    detected: np.ndarray, actual: np.ndarray, collar_s: float, offset_share: float | None
) -> np.ndarray:
    """Which detection (row) may stand for which event (column), bool."""
    distance_s = np.abs(actual[None] - detected[:, None])  # (n_detected, n_actual, 2)
    hits = distance_s[..., 0] <= collar_s
    if offset_share is not None:
        length_s = actual[:, 1] - actual[:, 0]
        hits &= distance_s[..., 1] <= np.maximum(collar_s, offset_share * length_s)
    return hits


def _n_matched(hits: np.ndarray) -> int:
    """Most pairs in which every row and every column occurs at most once."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int((maximum_bipartite_matching(csr_array(hits)) >= 0).sum())


def segment_error_rate(detected: Events, actual: Events, labels: Sequence[str], segment_s: float) -> float:
    """Substitutions, deletions and insertions in segments of a file, over the labels active in them.

    Args:
        detected, actual: events by file; files of ``detected`` are compared, each as far as its last event
            reaches.
        labels: all of them.
        segment_s: length of a segment in seconds; an event is active in every segment that it touches.
    """
    n_wrong = n_actual = 0
    for file, detections in detected.items():
        events = actual.get(file, ())
        last_s = max((event.end_ms / MS_PER_S for event in (*detections, *events)), default=0.0)
        n_segments = math.ceil(last_s * 1 / segment_s)
        is_detected, is_actual = (
            _active_segments(some, labels, segment_s, n_segments) for some in (detections, events)
        )
        n_missed = (is_actual & ~is_detected).sum(axis=1)
        n_false = (is_detected & ~is_actual).sum(axis=1)
        n_wrong += int(np.maximum(n_missed, n_false).sum())  # a missed and a false one are a substitution
        n_actual += int(is_actual.sum())
    return n_wrong / (n_actual + float(np.spacing(1)))


def _active_segments(
    events: Sequence[Event], labels: Sequence[str], segment_s: float, n_segments: int
) -> np.ndarray:
    """(n_segments, n_labels) bool."""
    column = {label: i for i, label in enumerate(labels)}
    active = np.zeros((n_segments, len(labels)), dtype=bool)
    for event in events:
        first = math.floor(event.start_ms / MS_PER_S / segment_s)
        last = math.ceil(event.end_ms / MS_PER_S / segment_s)
        active[first:last, column[event.label]] = True
    return active
