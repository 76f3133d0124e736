"""Sounds in the formats of FFmpeg, encoded by PyAV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs the extra av")

FFMPEG_FORMATS = {
    "a.m4a": ("ipod", "aac", 16000),
    "a.m4b": ("ipod", "alac", 44100),
    "a.mp4": ("mp4", "aac", 48000),
    "a.mov": ("mov", "pcm_s16le", 16000),
    "a.aac": ("adts", "aac", 16000),
    "a.webm": ("webm", "libopus", 48000),
    "a.mka": ("matroska", "flac", 16000),
    "a.mkv": ("matroska", "aac", 44100),
    "a.wma": ("asf", "wmav2", 44100),
    "a.amr": ("amr", "libopencore_amrnb", 8000),
}
"""FFmpeg's names of the container and the encoder, and a rate that both know, by the name of a file."""

LOSSLESS = frozenset({"a.m4b", "a.mov", "a.mka"})


def encode(
    path: Path,
    samples: np.ndarray,
    *,
    container: str | None = None,
    codec: str | None = None,
    rate_hz: int | None = None,
    with_video: bool = False,
    **options: str,
) -> Path:
    """Write (n,) or (n, channels), by default as ``FFMPEG_FORMATS`` says for the name; returns the path."""
    container_of_name, codec_of_name, rate_of_name = FFMPEG_FORMATS.get(path.name, (None, "aac", 16000))
    rate_hz = rate_hz or rate_of_name
    n_channels = samples.shape[1] if samples.ndim == 2 else 1
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[n_channels]
    with av.open(str(path), "w", format=container or container_of_name, options=options) as output:
        video = output.add_stream("mpeg4", rate=25) if with_video else None
        stream = output.add_stream(codec or codec_of_name, rate=rate_hz, layout=layout)
        if "pcm" not in stream.codec_context.name and "alac" not in stream.codec_context.name:
            stream.bit_rate = 12_200 if rate_hz == 8000 else 64_000 * n_channels
        if video is not None:
            _encode_pictures(output, video, len(samples) / rate_hz)
        values = np.ascontiguousarray(samples, dtype=np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(values, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        if not stream.codec_context.is_open:
            stream.codec_context.open()
        resampler = av.AudioResampler(
            stream.codec_context.format.name,
            layout,
            rate_hz,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(piece))
    return path


def encode_pictures_only(path: Path) -> Path:
    """A video without a sound."""
    with av.open(str(path), "w") as output:
        _encode_pictures(output, output.add_stream("mpeg4", rate=25), 0.5)
    return path


def _encode_pictures(output, stream, seconds: float) -> None:
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    rng = np.random.default_rng(0)
    for number in range(round(25 * seconds)):
        picture = av.VideoFrame.from_ndarray(
            rng.integers(256, size=(64, 64, 3), dtype=np.uint8), format="rgb24"
        )
        picture.pts = number
        output.mux(stream.encode(picture))
    output.mux(stream.encode(None))


def decode(path: Path) -> np.ndarray:
    """All samples (n_channels, n) as floats, in the plainest way that PyAV knows."""
    with av.open(str(path)) as source:
        to_float = av.AudioResampler("fltp")
        frames = [piece for frame in source.decode(audio=0) for piece in to_float.resample(frame)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
