"""Memory does not grow with the size of a corpus, nor with its plan by more than the names."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from sounds import voice, write

import serab_byols
from serab_byols.corpus.dataset.description import RunDescription
from serab_byols.corpus.dataset.local_storage import LocalStorage
from serab_byols.corpus.dataset.plan import read_parts
from serab_byols.corpus.dataset.planning import append, begin, check_same_plan
from serab_byols.corpus.listing import Inputs

FEW_CLIPS, MANY_CLIPS = 200, 1100
FEW_NAMES, MANY_NAMES = 3_000, 30_000
MAX_GROWTH_BYTES = 16e6
"""The decoded clips of the difference would take 23 MB."""
MAX_GROWTH_OF_A_PLAN_BYTES = 2e6
BYTES_A_NAME = 250
"""What appending may hold of a planned segment: two hashes and their place in a dict."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")


def peak_bytes():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def write_list(path, names):
    path.write_text("path\n" + "".join(f"{name}\n" for name in names))
    return path


def print_peaks(folder):
    """Peaks after each task, in JSON: of all tasks when small, then when large."""
    peaks = {}
    model = serab_byols.create_model("default", d=16)
    for n_clips in (FEW_CLIPS, MANY_CLIPS):
        listed = write_list(folder / f"{n_clips}.csv", ["clip.wav"] * n_clips)
        serab_byols.embed_dataset(listed, folder / f"{n_clips}-clips", model, part_size=100)
        peaks[f"embed {n_clips}"] = peak_bytes()
    tracemalloc.start()  # resident memory would not show lists that fit into what torch has left
    for n_names in (FEW_NAMES, MANY_NAMES):
        names = (f"/corpus/speaker-{i % 100}/recording-{i:09d}.flac" for i in range(n_names))
        inputs = Inputs(write_list(folder / f"{n_names}.csv", names), in_order=False)
        tracemalloc.reset_peak()
        storage = LocalStorage(folder / f"{n_names}-names")
        run = begin(storage, RunDescription({}, {}), inputs, {}, 512)
        check_same_plan(storage, run, inputs)
        assert sum(len(part.segments) for part in read_parts(storage, run.plan[0])) == n_names
        peaks[f"plan {n_names}"] = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    append(storage, run, inputs, {}, 512)
    peaks["append"] = tracemalloc.get_traced_memory()[1]
    print(json.dumps(peaks))


def test_peaks_do_not_grow_with_the_number_of_clips_or_segments(tmp_path):
    write(tmp_path / "clip.wav", voice(0, 0.4))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], check=True, capture_output=True, text=True, env=environment
    )
    peaks = json.loads(done.stdout)
    assert peaks[f"embed {MANY_CLIPS}"] - peaks[f"embed {FEW_CLIPS}"] < MAX_GROWTH_BYTES
    assert peaks[f"plan {MANY_NAMES}"] - peaks[f"plan {FEW_NAMES}"] < MAX_GROWTH_OF_A_PLAN_BYTES
    assert peaks["append"] - peaks[f"plan {MANY_NAMES}"] < BYTES_A_NAME * MANY_NAMES


if __name__ == "__main__":
    print_peaks(Path(sys.argv[1]))
