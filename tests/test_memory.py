"""Memory is bounded, however long the audio: one process embeds short recordings, then long ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import serab_byols
from serab_byols.cli import main as cli
from serab_byols.corpus import decode_ahead
from serab_byols.corpus.decoding import AudioClip

SHORT_S, LONG_S = 60, 180
RATE_HZ = 192_000
MAX_GROWTH_BYTES = 80e6
"""Two minutes at that rate are 92 MB; their frames cut at once, or encoded in one chunk, over 300 MB."""
MAX_PEAK_BYTES = 1.2e9

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")


def peak_bytes():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def print_peaks(folder):
    """Peaks after each task, in JSON: of all tasks with a short recording, then with a long one."""
    decode_ahead.STREAM_S = 20.0
    AudioClip.read = None  # what is streamed is never read as a whole
    model = serab_byols.create_model("default", d=64)
    weights = str(serab_byols.save_checkpoint(model, folder / "model.safetensors"))

    def embed_array(seconds):
        generator = torch.Generator().manual_seed(0)
        samples = torch.rand(1, seconds * model.sample_rate, generator=generator)
        embeddings, _ = serab_byols.get_timestamp_embeddings(samples, model)
        return samples.nbytes + embeddings.nbytes

    def embed_scene(seconds):
        serab_byols.embed_file(folder / f"{seconds}.wav", model)
        return 0

    def embed_by_command(seconds):
        table = str(folder / f"{seconds}.parquet")
        recording = str(folder / f"{seconds}.wav")
        assert cli(["embed", recording, "-o", table, "--timestamps", "--model", weights, "--quiet"]) == 0
        return 0

    peaks = {}
    for seconds in (SHORT_S, LONG_S):
        for task in (embed_by_command, embed_array, embed_scene):
            data_bytes = task(seconds)  # input and result, which the caller asked for
            peaks[f"{task.__name__} {seconds}"] = peak_bytes() - data_bytes
    print(json.dumps(peaks))


def test_peaks_do_not_grow_with_the_length_of_a_recording(tmp_path):
    for seconds in (SHORT_S, LONG_S):
        with soundfile.SoundFile(tmp_path / f"{seconds}.wav", "w", RATE_HZ, 1, "PCM_16") as file:
            for _ in range(seconds):
                file.write(np.zeros(RATE_HZ, np.int16))
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    peaks = json.loads(run.stdout.splitlines()[-1])
    short = max(peak for task, peak in peaks.items() if task.endswith(f" {SHORT_S}"))
    for task, peak in peaks.items():
        assert peak - short < MAX_GROWTH_BYTES, task
        assert peak < MAX_PEAK_BYTES, task


if __name__ == "__main__":
    print_peaks(Path(sys.argv[1]))
