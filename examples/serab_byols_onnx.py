"""Embeddings of audio files without torch: numpy, soundfile, soxr and onnxruntime are enough.

    serab-byols export -o model.onnx
    python serab_byols_onnx.py model.onnx one.wav two.mp3 > embeddings.csv

The two functions are meant to be copied. They give the numbers of ``serab_byols.embed_file``.
"""

from __future__ import annotations

import csv
import sys

import numpy as np
import onnxruntime
import soundfile
import soxr


def load_model(path: str) -> onnxruntime.InferenceSession:
    """A model that ``serab-byols export`` wrote."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def embed_file(path: str, model: onnxruntime.InferenceSession) -> np.ndarray:
    """Embedding (D,), float32, of an audio file of any format, sample rate and number of channels."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    model_rate_hz = int(model.get_modelmeta().custom_metadata_map["sample_rate_hz"])
    if rate_hz != model_rate_hz:
        mono = soxr.resample(mono, rate_hz, model_rate_hz, quality="HQ")
    if len(mono) == 0 or not np.isfinite(mono).all():
        raise ValueError(f"{path} holds no samples, or some that are NaN or infinite")
    return model.run(["embedding"], {"waveform": mono[None]})[0][0]


def main() -> None:
    """One line a file: its name and the numbers of its embedding."""
    model = load_model(sys.argv[1])
    table = csv.writer(sys.stdout)
    for path in sys.argv[2:]:
        table.writerow([path, *embed_file(path, model)])


if __name__ == "__main__":
    main()
