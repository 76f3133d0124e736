"""Memory is bounded, however long the audio: measured in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from parity_data import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")


def working_bytes(task: str, seconds: float, *wav: str) -> int:
    """Peak resident memory without weights, input and result."""
    script = ROOT / "benchmarks" / "memory_task.py"
    # Warnings are no errors there: the process is one of a user.
    run = subprocess.run(
        [sys.executable, str(script), task, str(seconds), *wav], check=True, capture_output=True, text=True
    )
    facts = json.loads(run.stdout.splitlines()[-1])
    return facts["peak_bytes"] - sum(facts[f"{what}_bytes"] for what in ("weights", "input", "result"))


def test_timestamps_of_a_long_tensor_need_no_more_than_of_a_short_one():
    short, long = working_bytes("array", 60), working_bytes("array", 480)
    assert long < 1.5e9
    assert long - short < 0.2e9


@pytest.mark.parametrize("task", ["command", "scenes"])
def test_a_long_recording_is_streamed(task, tmp_path):
    peaks = []
    for minutes in (2, 12):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 44100, channels=2, subtype="PCM_16") as file:
            for second in range(minutes * 60):
                noise = np.random.default_rng(second).integers(-300, 300, (44100, 2), dtype=np.int16)
                file.write(noise)
        peaks.append(working_bytes(task, minutes * 60, str(path)))
        os.remove(path)
    assert peaks[1] < 1.2e9
    assert peaks[1] - peaks[0] < 0.2e9
