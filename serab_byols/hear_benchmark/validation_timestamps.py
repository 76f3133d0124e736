"""Rules on timestamps: regular, within the clip, and where the sound is, in long clips too."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from serab_byols.hear_benchmark.validation_long import LONG_S, MOST_BYTES, run_long
from serab_byols.hear_benchmark.validation_rule import BrokenRuleError, NotCheckedError, Rules, Subject
from serab_byols.hear_benchmark.validation_timing import long_clip_responses, short_clip_response

TIMING_S = 4.0
DRIFT_S = 60.0
MOST_UNEVEN_MS = 1.0
ONSET_TOLERANCE_MS = 50.0
"""Of HEAR's note transcription: no larger hop is suggested, and no longer end may be without frames."""

RULES = Rules()


def _rows(subject: Subject) -> Iterator[tuple[torch.Tensor, float, float]]:
    """Of each clip: its timestamps, float64 (n_timestamps,), their spacing, and its length, all in ms."""
    for audio, _, timestamps in subject.timestamps:
        length_ms = 1000 * audio.shape[1] / subject.model.sample_rate
        for row in timestamps.detach().double().cpu():
            if len(row) > 1:
                yield row, float(row.diff().mean()), length_ms


@RULES.rule(
    "spacing",
    f"timestamps are in regular intervals, within {MOST_UNEVEN_MS:g} ms",
    "original",
    "timestamp-shape",
)
def _spacing(subject: Subject) -> str:
    for row, spacing_ms, length_ms in _rows(subject):
        subject.hop_ms = spacing_ms
        _check_spacing(row, spacing_ms, length_ms)
    if not subject.hop_ms:
        raise NotCheckedError("no clip has two timestamps")
    suggestion = (
        f"; HEAR suggests at most {ONSET_TOLERANCE_MS:g}" if subject.hop_ms > ONSET_TOLERANCE_MS else ""
    )
    return f"one every {subject.hop_ms:.4g} ms{suggestion}"


def _check_spacing(row: torch.Tensor, spacing_ms: float, length_ms: float) -> None:
    uneven_ms = float((row.diff() - spacing_ms).abs().max())
    if not spacing_ms > 0:
        raise BrokenRuleError(f"timestamps of a clip of {length_ms:.0f} ms do not increase")
    if not uneven_ms <= MOST_UNEVEN_MS:
        raise BrokenRuleError(
            f"timestamps of a clip of {length_ms:.0f} ms are {spacing_ms:.4g} ms apart on average, "
            f"two of them {uneven_ms:.4g} ms more or less"
        )


@RULES.rule("within-clip", "timestamps are not beyond the clip's end", "original", "timestamp-shape")
def _within_clip(subject: Subject) -> str:
    for audio, _, timestamps in subject.timestamps:
        length_ms = 1000 * audio.shape[1] / subject.model.sample_rate
        last_ms = float(timestamps.max())
        # float32 cannot hold every length exactly
        if not last_ms <= length_ms * (1 + 1e-6):
            raise BrokenRuleError(
                f"the last timestamp is {last_ms:.6g} ms, and the clip has {length_ms:.6g} ms"
            )
    return "all of them"


@RULES.rule(
    "start", "the first timestamp is at most one interval after the start, and not before", "api", "spacing"
)
def _start(subject: Subject) -> str:
    for row, spacing_ms, length_ms in _rows(subject):
        if row[0] < 0:
            raise BrokenRuleError(f"the first timestamp is {float(row[0]):.4g} ms")
        if row[0] > spacing_ms + MOST_UNEVEN_MS:
            raise BrokenRuleError(
                f"the first timestamp of a clip of {length_ms:.0f} ms is {float(row[0]):.4g} ms, "
                f"and the next {spacing_ms:.4g} ms later: events before it have no embedding"
            )
    return f"at {min(float(row[0]) for row, _, _ in _rows(subject)):.4g} ms"


@RULES.rule(
    "end",
    f"the last timestamp is at most one interval, or {ONSET_TOLERANCE_MS:g} ms, before the clip's end",
    "api",
    "spacing",
)
def _end(subject: Subject) -> str:
    most_ms = 0.0
    for row, spacing_ms, length_ms in _rows(subject):
        rest_ms = length_ms - float(row[-1])
        if rest_ms > max(spacing_ms, ONSET_TOLERANCE_MS) + MOST_UNEVEN_MS:
            raise BrokenRuleError(
                f"the last timestamp is {float(row[-1]):.4g} ms, and the clip has {length_ms:.0f} ms: "
                f"events in the last {rest_ms:.4g} ms have no embedding"
            )
        most_ms = max(most_ms, rest_ms)
    return f"at most {most_ms:.4g} ms before it"


@RULES.rule(
    "centred",
    "timestamps are the centres of what their embeddings hear: a burst changes those around it alike",
    "api",
    *("spacing", "timestamp-repeatable"),
)
def _centred(subject: Subject) -> str:
    response = short_clip_response(subject.one_clip, subject.model.sample_rate, TIMING_S, subject.hop_ms)
    if response is None:
        raise NotCheckedError("a burst changes all embeddings alike, or none")
    span = f"a burst changes embeddings over {response.width_ms:.4g} ms"
    if abs(response.offset_ms) > response.tolerance_ms(subject.hop_ms):
        side, edge = ("before", "starts") if response.offset_ms < 0 else ("after", "ends")
        raise BrokenRuleError(
            f"{span}, whose timestamps are {abs(response.offset_ms):.4g} ms {side} it on average: "
            f"are they the {edge} of frames?"
        )
    return f"{span}, {response.offset_ms:+.2g} ms off centre"


@RULES.rule(
    "drift",
    f"in clips of {DRIFT_S:g} s timestamps stay with the sound, and end with the clip",
    "api",
    *("centred", "within-clip", "start", "end"),
)
def _drift(subject: Subject) -> str:
    early, late, later_ms, timestamps_ms = long_clip_responses(
        subject.one_clip, subject.model.sample_rate, DRIFT_S, subject.hop_ms
    )
    check_ends(timestamps_ms, subject.hop_ms, DRIFT_S * 1000)
    if early is None or late is None:
        raise NotCheckedError("bursts in a long clip change all embeddings alike")
    drift_ms = late.offset_ms - early.offset_ms
    found = f"timestamps move by {drift_ms:+.2g} ms against the sound in {later_ms / 1000:.0f} s"
    if abs(drift_ms) > max(5.0, subject.hop_ms / 4):
        raise BrokenRuleError(f"{found}: is a hop of a fraction of a sample rounded?")
    return found


def check_ends(row: torch.Tensor, hop_ms: float, length_ms: float) -> None:
    """Of a long clip, whose short ones have kept the rules."""
    spacing_ms = float(row.diff().mean())
    _check_spacing(row, spacing_ms, length_ms)
    rest_ms = length_ms - float(row[-1])
    # The spacing of float32 numbers at 20 minutes is an eighth of a millisecond.
    if rest_ms < -MOST_UNEVEN_MS or rest_ms > max(spacing_ms, ONSET_TOLERANCE_MS) + MOST_UNEVEN_MS:
        raise BrokenRuleError(
            f"the last timestamp is {float(row[-1]):.7g} ms, and the clip has {length_ms:.0f} ms: "
            "is a hop of a fraction of a sample rounded?"
        )
    if abs(spacing_ms - hop_ms) * len(row) > max(hop_ms, MOST_UNEVEN_MS):
        raise BrokenRuleError(f"timestamps are {spacing_ms:.6g} ms apart, in short clips {hop_ms:.6g} ms")


@RULES.rule(
    "long",
    f"{LONG_S / 60:g} minutes of audio need at most {MOST_BYTES >> 30} GiB, and timestamps do not drift",
    "api",
    *("scene-shape", "timestamp-shape", "spacing"),
)
def _long(subject: Subject) -> str:
    if not subject.long:
        raise NotCheckedError("not asked for")
    result = run_long(subject.name, subject.file, subject.device)
    if result.error:
        raise BrokenRuleError(result.error)
    gib = result.peak_bytes / 2**30
    if result.peak_bytes > MOST_BYTES:
        raise BrokenRuleError(f"{gib:.1f} GiB were needed")
    check_ends(torch.tensor(result.timestamps_ms, dtype=torch.float64), subject.hop_ms, LONG_S * 1000)
    return f"{gib:.1f} GiB, {len(result.timestamps_ms)} timestamps, {result.seconds:.0f} s"
