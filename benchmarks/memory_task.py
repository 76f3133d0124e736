"""One task in a process of its own, whose peak memory is then that of the task.

``python benchmarks/memory_task.py (array|scenes|timestamps|command) SECONDS [WAV]`` prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from peak_memory import peak_rss_bytes

from serab_byols import ByolsModel, create_model, embed_file, get_timestamp_embeddings, save_checkpoint
from serab_byols.cli import main as cli


def embedded_by_command(wav: str, model: ByolsModel) -> np.ndarray:
    """``serab-byols embed --timestamps``; what comes of it is in a file, and nothing in memory."""
    weights = save_checkpoint(model, Path(wav).with_suffix(".safetensors"))
    table = Path(wav).with_suffix(".parquet")
    arguments = ["embed", wav, "-o", str(table), "--timestamps", "--model", str(weights), "--quiet"]
    if cli(arguments) != 0:
        raise SystemExit("the command failed")
    return np.empty((0, model.timestamp_embedding_size), np.float32)


def main(task: str, duration_s: float, wav: str = "") -> None:
    """Embed an array or a file of ``duration_s`` with the default encoder at d=2048."""
    model = create_model("default", d=2048)
    samples = torch.empty(0)
    if task == "array":
        generator = torch.Generator().manual_seed(0)
        samples = torch.rand(1, int(duration_s * model.sample_rate), generator=generator).mul_(0.2).sub_(0.1)
    before = peak_rss_bytes()
    start = time.perf_counter()
    arrays: list[torch.Tensor] | list[np.ndarray]
    if task == "command":
        arrays = [embedded_by_command(wav, model)]
    elif task == "array":
        embeddings, times = get_timestamp_embeddings(samples, model, frame_duration=1000, hop_size=50)
        arrays = [embeddings[0], times[0]]
    else:
        arrays = [embed_file(wav, model, timestamps=task == "timestamps").embedding]
    seconds = time.perf_counter() - start
    facts = {
        "seconds": seconds,
        "peak_bytes": peak_rss_bytes(),
        "before_bytes": before,
        "weights_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "input_bytes": samples.nbytes,
        "result_bytes": sum(array.nbytes for array in arrays),
        "result_shape": list(arrays[0].shape),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
