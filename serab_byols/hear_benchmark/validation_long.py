"""Twenty minutes of audio in a process of its own: its memory is known, and want of memory is a verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from serab_byols.hear_benchmark.hear_module import import_hear_module
from serab_byols.hear_benchmark.validation_audio import noise_clips

LONG_S = 1200.0
MOST_BYTES = 16 << 30


@dataclass(frozen=True)
class LongResult:
    """What came of it.

    Attributes:
        error: what went wrong, or empty.
        peak_bytes: of the device, or on the CPU of the whole process.
        timestamps_ms: of the clip.
        seconds: that both functions took.
    """

    error: str = ""
    peak_bytes: int = 0
    timestamps_ms: tuple[float, ...] = ()
    seconds: float = 0.0


def run_long(module: str, model_file: str, device: torch.device, length_s: float = LONG_S) -> LongResult:
    """Scene and timestamp embeddings of a long clip of noise, in a new process.

    Args:
        module: its name.
        model_file: for ``load_model``; empty for its default.
        device: a CPU or a CUDA device.
        length_s: of the clip.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        arguments = [module, model_file, str(device), str(length_s), str(out)]
        # The child finds what this process finds, wherever that is.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        process = subprocess.run(
            [sys.executable, "-m", __name__, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if process.returncode < 0:
            return LongResult(
                f"the process was ended by signal {-process.returncode}, as it is for want of memory"
            )
        if process.returncode:
            return LongResult((process.stderr.strip().splitlines() or ["the process failed"])[-1])
        return LongResult(**json.loads(out.read_text(encoding="utf-8")))


def _embed(module_name: str, model_file: str, device: torch.device, length_s: float) -> LongResult:
    module = import_hear_module(module_name)
    model = module.load_model(model_file) if model_file else module.load_model()
    model.to(device)
    audio = noise_clips(int(length_s * model.sample_rate), 1).to(device)
    start = time.perf_counter()
    with torch.no_grad():
        module.get_scene_embeddings(audio, model)
        _, timestamps = module.get_timestamp_embeddings(audio, model)
    seconds = time.perf_counter() - start
    return LongResult("", _peak_bytes(device), tuple(timestamps[0].tolist()), seconds)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    import resource  # not on Windows, where the process fails and says so

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


if __name__ == "__main__":
    name, file, device_name, length, out_path = sys.argv[1:]
    result = _embed(name, file, torch.device(device_name), float(length))
    Path(out_path).write_text(json.dumps(asdict(result)), encoding="utf-8")
