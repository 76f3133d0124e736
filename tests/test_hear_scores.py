"""HEAR's scores against numbers by hand, by sed_eval, and by plain loops."""

import json
import math

import numpy as np
import pytest
from parity_data import ROOT

from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.event_detection import (
    active_labels,
    events_from_predictions,
    postprocessing_choices,
)
from serab_byols.hear_benchmark.event_scores import Event, event_based_f_measure, segment_error_rate
from serab_byols.hear_benchmark.prediction_scores import SCORES, score_of_name

pytest.importorskip("sklearn")

GOLDEN = json.loads((ROOT / "tests" / "golden" / "sed_eval.json").read_text())


def events_of(files):
    return {
        file: [Event(event["label"], event["start"], event["end"]) for event in of_file]
        for file, of_file in files.items()
    }


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{len(case['actual'])} files")
def test_event_scores_equal_those_of_sed_eval(case):
    actual, detected = events_of(case["actual"]), events_of(case["detected"])
    values = {}
    for score in SCORES.values():
        if score.of_events:
            values |= score(detected, actual, GOLDEN["labels"])
    assert len(case["scores"]) == 10
    assert {name: values[name] for name in case["scores"]} == pytest.approx(case["scores"], abs=1e-12)


def test_event_f_measure_by_hand():
    actual = {"a": [Event("x", 1000, 2000), Event("x", 1150, 2000), Event("y", 5000, 6000)]}
    detected = {
        "a": [Event("x", 1100, 9000), Event("x", 950, 2000), Event("x", 5000, 6000), Event("y", 5201, 6000)]
    }
    # Both x are found, each by another detection; y is 201 ms late.
    f_measure, precision, recall = event_based_f_measure(detected, actual, collar_s=0.2)
    assert (precision, recall) == (2 / 4, 2 / 3)
    assert f_measure == pytest.approx(4 / 7)
    # With offsets, only the second x has its end, and y is 1 ms beyond the collar.
    assert event_based_f_measure(detected, actual, 0.2, 0.2).precision == 1 / 4


def test_one_detection_is_not_two_events():
    actual = {"a": [Event("x", 1000, 1100), Event("x", 1100, 1200)]}
    assert event_based_f_measure({"a": [Event("x", 1050, 1200)]}, actual, 0.2).recall == 0.5


def test_event_f_measure_without_events():
    assert math.isnan(event_based_f_measure({"a": []}, {"a": [Event("x", 0, 1)]}, 0.2).f_measure)
    assert event_based_f_measure({"a": [Event("y", 0, 1)]}, {"a": [Event("x", 0, 1)]}, 0.2).f_measure == 0
    # Files without detections count, files that were not listened to do not.
    assert event_based_f_measure({}, {"a": [Event("x", 0, 1)]}, 0.2).recall is not None


def test_segment_error_rate_by_hand():
    actual = {"a": [Event("x", 500, 2500), Event("y", 3000, 4000)]}
    detected = {
        "a": [Event("x", 0, 1000), Event("y", 1200, 1300), Event("z", 3100, 3200), Event("y", 3500, 3600)]
    }
    # 0-1 s: right; 1-2: y for x, a substitution; 2-3: x missed; 3-4: z invented. Four active in truth.
    rate = segment_error_rate(detected, actual, ["x", "y", "z"], 1.0)
    assert rate == pytest.approx(3 / 4)


def test_scores_of_clips_by_hand():
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    predictions = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1]])
    values = {
        name: SCORES[name](predictions, truth, "abc")[name]
        for name in ("top1_acc", "mAP", "aucroc", "d_prime")
    }
    assert values["top1_acc"] == 0.5
    # Ranks of a's clips: 1 and 4; of b's: 2; of c's: 1.
    assert values["mAP"] == pytest.approx(np.mean([(1 / 1 + 2 / 4) / 2, 1 / 2, 1]))
    # Pairs in order: a 2 of 4; b 2 of 3; c 3 of 3.
    assert values["aucroc"] == pytest.approx(np.mean([2 / 4, 2 / 3, 1]))
    assert values["d_prime"] == math.inf


def test_d_prime_by_hand():
    truth = np.array([[1], [1], [0], [0]])
    predictions = np.array([[0.9], [0.3], [0.5], [0.1]])
    # AUC 3/4; the normal distribution reaches 3/4 at 0.6744897501960817.
    assert SCORES["d_prime"](predictions, truth, "a")["d_prime"] == pytest.approx(
        0.6744897501960817 * math.sqrt(2)
    )


def test_scores_of_a_label_without_clips():
    truth, predictions = np.array([[1, 0], [1, 0]]), np.array([[0.9, 0.1], [0.4, 0.6]])
    assert math.isnan(SCORES["aucroc"](predictions, truth, "ab")["aucroc"])
    assert math.isnan(SCORES["d_prime"](predictions, truth, "ab")["d_prime"])
    assert SCORES["mAP"](predictions, truth, "ab")["mAP"] == 0.5


def test_chroma_forgives_octaves():
    truth, predictions = np.eye(25)[[0, 3, 24]], np.eye(25)[[12, 4, 0]]
    assert SCORES["chroma_acc"](predictions, truth, ())["chroma_acc"] == pytest.approx(2 / 3)
    assert SCORES["pitch_acc"](predictions, truth, ())["pitch_acc"] == 0


def test_an_unknown_score_lists_the_known():
    with pytest.raises(InvalidInputError, match=r"'wer'.*top1_acc"):
        score_of_name("wer")


def test_labels_of_timestamps():
    events = [Event("x", 100, 200), Event("y", 200, 250), Event("x", 150, 300)]
    active = active_labels(events, np.array([0, 100, 200, 250, 300, 301], dtype=np.float32), ["x", "y"])
    assert active[:, 0].tolist() == [False, True, True, True, True, False]
    assert active[:, 1].tolist() == [False, False, True, True, False, False]


def test_events_from_predictions():
    times = np.arange(8, dtype=np.float32) * 50
    predictions = np.array(
        [[0.9, 0.1], [0.9, 0.6], [0.2, 0.6], [0.9, 0.6], [0.9, 0.1], [0.9, 0.1], [0.1, 0.1], [0.1, 0.9]]
    )
    raw = {"median_filter_ms": 0, "min_duration": 0}
    assert events_from_predictions(predictions, times, ["x", "y"], raw) == [
        Event("x", 0, 50),
        Event("y", 50, 150),
        Event("x", 150, 250),
        Event("y", 350, 350),
    ]
    # A median over three timestamps closes the gap in x and removes the single y.
    filtered = events_from_predictions(predictions, times, ["x", "y"], {**raw, "median_filter_ms": 150})
    assert filtered[:2] == [Event("x", 0, 250), Event("y", 50, 150)]
    long = events_from_predictions(predictions, times, ["x", "y"], {**raw, "min_duration": 100})
    assert long == [Event("y", 50, 150), Event("x", 150, 250)]


def test_choices_of_postprocessing():
    choices = postprocessing_choices({"median_filter_ms": [250], "min_duration": [250, 125]})
    assert [choice["min_duration"] for choice in choices] == [125, 250]
