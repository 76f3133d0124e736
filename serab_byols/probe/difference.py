"""How much better one kind of features does than another, on the same clips."""

from __future__ import annotations

import numpy as np

from serab_byols.probe.bootstrap import bootstrap_intervals, clusters_of
from serab_byols.probe.results import Difference, ProbeResult


def difference(ours: ProbeResult, other: ProbeResult, seed: int = 0) -> Difference:
    """Scores of one result minus those of another of the same task and splits.

    The interval is of the difference (paired bootstrap), which clips that are hard for both do not widen.
    """
    label = {name: number for number, name in enumerate(ours.labels)}
    truth, predicted, others = (
        np.array([label[name] for name in names])
        for names in (
            [clip.label for clip in ours.predictions],
            [clip.predicted for clip in ours.predictions],
            [clip.predicted for clip in other.predictions],
        )
    )
    clusters = clusters_of([clip.group for clip in ours.predictions])
    intervals = bootstrap_intervals(truth, predicted, clusters, seed, other=others)
    return Difference(
        other=other.features,
        accuracy=ours.accuracy - other.accuracy,
        uar=ours.uar - other.uar,
        accuracy_interval=intervals[0] if intervals else None,
        uar_interval=intervals[1] if intervals else None,
    )
