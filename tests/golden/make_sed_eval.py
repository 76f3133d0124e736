"""Writes sed_eval.json: scores of random events by sed_eval 0.2.1.

``python tests/golden/make_sed_eval.py tests/golden/sed_eval.json`` in an environment with sed_eval,
dcase_util and a setuptools below 81.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import sed_eval
from dcase_util.containers import MetaDataContainer

LABELS = ["car", "door", "speech"]
EVENT_BASED = {
    "event_onset_200ms_fms": {"evaluate_onset": True, "evaluate_offset": False, "t_collar": 0.2},
    "event_onset_50ms_fms": {"evaluate_onset": True, "evaluate_offset": False, "t_collar": 0.05},
    "event_onset_offset_50ms_20perc_fms": {
        "evaluate_onset": True,
        "evaluate_offset": True,
        "t_collar": 0.05,
        "percentage_of_length": 0.2,
    },
}


def random_events(rng, n_files, density):
    """Actual events by file, and detections of them: moved, renamed, missed and invented."""
    actual, detected = {}, {}
    for i in range(n_files):
        file = f"{i}.wav"
        actual[file], detected[file] = [], []
        for _ in range(rng.poisson(density)):
            start, length = float(rng.uniform(0, 9000)), float(rng.exponential(600) + 30)
            label = str(rng.choice(LABELS))
            actual[file].append({"label": label, "start": round(start, 2), "end": round(start + length, 2)})
            if rng.random() < 0.8:
                moved = max(0.0, start + float(rng.normal(0, 120)))
                name = label if rng.random() < 0.8 else str(rng.choice(LABELS))
                end = moved + length * float(rng.uniform(0.7, 1.3))
                detected[file].append({"label": name, "start": round(moved, 2), "end": round(end, 2)})
        for _ in range(rng.poisson(density / 4)):
            start = float(rng.uniform(0, 9000))
            detected[file].append({"label": str(rng.choice(LABELS)), "start": start, "end": start + 400.0})
    return actual, detected


def container(events):
    return MetaDataContainer(
        [
            {
                "event_label": event["label"],
                "event_onset": event["start"] / 1000.0,
                "event_offset": event["end"] / 1000.0,
                "file": file,
            }
            for file, of_file in events.items()
            for event in of_file
        ]
    )


def scores(actual, detected):
    metrics = {
        name: sed_eval.sound_event.EventBasedMetrics(LABELS, **options)
        for name, options in EVENT_BASED.items()
    }
    metrics["segment_1s_er"] = sed_eval.sound_event.SegmentBasedMetrics(LABELS, time_resolution=1.0)
    reference, estimated = container(actual), container(detected)
    for metric in metrics.values():
        for file in detected:
            metric.evaluate(reference.filter(filename=file), estimated.filter(filename=file))
    named = {}
    for name, metric in metrics.items():
        overall = metric.results_overall_metrics()
        if name in EVENT_BASED:
            named[name] = overall["f_measure"]["f_measure"]
            named |= {f"{name}_{part}": overall["f_measure"][part] for part in ("precision", "recall")}
        else:
            named[name] = overall["error_rate"]["error_rate"]
    return named


def main():
    rng = np.random.default_rng(0)
    cases = []
    for n_files, density in [(1, 3), (3, 0.7), (4, 6), (2, 25), (5, 12), (1, 80)]:
        actual, detected = random_events(rng, n_files, density)
        cases.append({"actual": actual, "detected": detected, "scores": scores(actual, detected)})
    content = {"sed_eval": version("sed_eval"), "labels": LABELS, "cases": cases}
    Path(sys.argv[1]).write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
