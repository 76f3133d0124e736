"""ONNX Runtime as a competitor: an exported encoder behind the library's front end.

The export is made once and is not timed. What is timed is what the library does for its result:
front end (once per clip or frame), normalisation, encoder.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reference import clip_statistics, cut_frames

from serab_byols import ByolsModel
from serab_byols.normalization import per_clip_statistics

BATCH_SIZES = (4, 8, 16)
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
"""Packages of the extra ``bench`` that are not installed."""


class OnnxEncoder:
    """An encoder in ONNX Runtime: normalised log-mel (B, 1, 64, T) to embedding (B, D).

    It gets as many threads as torch has, and the batch size at which it is fastest.

    Args:
        model: its encoder is exported, float32, on the CPU.
        n_frames: T, which is fixed in the export.
        path: where the export goes.
    """

    def __init__(self, model: ByolsModel, n_frames: int, path: Path) -> None:
        example = torch.zeros(1, 1, 64, n_frames)
        axes = {"log_mel": {0: "batch"}, "embedding": {0: "batch"}}
        with warnings.catch_warnings():
            # The exporter's older way: graphs as fast (measured), without onnxscript, in a second
            # instead of ten. Its warnings are about its age and about sizes that are fixed here.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.encoder,
                (example,),
                str(path),
                input_names=["log_mel"],
                output_names=["embedding"],
                dynamic_axes=axes,
                dynamo=False,
            )
        self._session = _session(path)
        self.batch_size = min(BATCH_SIZES, key=lambda size: self._seconds_per_item(size, n_frames))

    def __call__(self, log_mel: torch.Tensor) -> torch.Tensor:
        (embedding,) = self._session.run(None, {"log_mel": log_mel.numpy()})
        return torch.from_numpy(embedding)

    def _seconds_per_item(self, batch_size: int, n_frames: int) -> float:
        log_mel = torch.randn(batch_size, 1, 64, n_frames)
        self(log_mel)  # allocates its buffers
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            self(log_mel)
            seconds.append(time.perf_counter() - start)
        return min(seconds) / batch_size


def whole_model(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """An exported model, waveforms (B, n) to embeddings (B, D), with as many threads as torch has."""
    session = _session(path)
    return lambda waveform: torch.from_numpy(session.run(None, {"waveform": waveform.numpy()})[0])


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def scene_embeddings(clips: torch.Tensor, model: ByolsModel, encoder: OnnxEncoder) -> torch.Tensor:
    """Embeddings (B, D) of clips (B, n)."""
    embeddings = []
    for batch in clips.split(encoder.batch_size):
        log_mel = model.frontend(batch)
        mean, std = per_clip_statistics(log_mel)
        embeddings.append(encoder(((log_mel - mean) / std)[:, None]))
    return torch.cat(embeddings)


@torch.no_grad()
def timestamp_embeddings(
    clip: torch.Tensor, model: ByolsModel, encoder: OnnxEncoder, frame_ms: float, hop_ms: float
) -> torch.Tensor:
    """Embeddings (T, D) of the frames of a clip (n,)."""
    mean, std = clip_statistics(clip, model)
    frames = cut_frames(clip, model, frame_ms, hop_ms).split(encoder.batch_size)
    return torch.cat([encoder(((model.frontend(batch) - mean) / std)[:, None]) for batch in frames])
