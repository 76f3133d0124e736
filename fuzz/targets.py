"""What is fuzzed: undamaged files to begin with, and what must hold of a damaged one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import av
import numpy as np
import soundfile
import torch

import serab_byols
from serab_byols.corpus.listing import find_segments
from serab_byols.probe.manifest import read_manifest

RATE_HZ = 16000
AUDIO = {
    "pcm.wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"),
    "a.flac": ("FLAC", "PCM_16"),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aiff": ("AIFF", "PCM_24"),
    "a.au": ("AU", "ULAW"),
    "a.caf": ("CAF", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.rf64": ("RF64", "PCM_16"),
}

FFMPEG_AUDIO = {
    "a.m4a": ("ipod", "aac", 16000, {}),
    "moov-first.m4a": ("ipod", "aac", 16000, {"movflags": "faststart"}),
    "alac.m4a": ("ipod", "alac", 16000, {"movflags": "faststart"}),
    "fragments.mp4": (
        "mp4",
        "aac",
        16000,
        {"movflags": "empty_moov+frag_keyframe", "frag_duration": "100000"},
    ),
    "a.mov": ("mov", "pcm_s16le", 16000, {"movflags": "faststart"}),
    "a.aac": ("adts", "aac", 16000, {}),
    "a.webm": ("webm", "libopus", 48000, {}),
    "a.mka": ("matroska", "flac", 16000, {}),
    "a.wma": ("asf", "wmav2", 44100, {}),
    "a.amr": ("amr", "libopencore_amrnb", 8000, {}),
}
"""Container, encoder, rate and options of the container, as FFmpeg names them."""


class Finding(BaseException):
    """A rule was broken; no handler of the library may swallow it."""


class Target(ABC):
    """One kind of file."""

    name: str

    @abstractmethod
    def originals(self, folder: Path) -> list[Path]:
        """Write undamaged files."""

    @abstractmethod
    def check(self, path: Path) -> None:
        """Use the file; raises a finding or, if the file is refused, an error of the library."""


class Audio(Target):
    """Embeddings of whatever can be decoded are finite."""

    name = "audio"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = serab_byols.create_model("default", d=8)

    def originals(self, folder: Path) -> list[Path]:
        for name, (kind, subtype) in AUDIO.items():
            soundfile.write(folder / name, _sound(RATE_HZ), RATE_HZ, format=kind, subtype=subtype)
        for name, (container, codec, rate_hz, options) in FFMPEG_AUDIO.items():
            with av.open(str(folder / name), "w", format=container, options=options) as output:
                _encode(output, output.add_stream(codec, rate=rate_hz, layout="mono"), _sound(rate_hz))
        return [folder / name for name in (*AUDIO, *FFMPEG_AUDIO)]

    def check(self, path: Path) -> None:
        for timestamps in (False, True):
            record = serab_byols.embed_file(path, self.model, timestamps=timestamps, hop_size=1000)
            _check_finite(record.embedding)


def _sound(rate_hz: int) -> np.ndarray:
    """Half a second of a tone and some noise, float32 (n,)."""
    time_s = np.arange(rate_hz // 2) / rate_hz
    noise = np.random.default_rng(0).normal(size=len(time_s))
    return (0.3 * np.sin(2 * np.pi * 220 * time_s) + 0.01 * noise).astype(np.float32)


def _encode(output: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray) -> None:
    stream.bit_rate = 12_200 if stream.rate == 8000 else 64_000
    stream.codec_context.open()
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = stream.rate, 0
    packet_samples = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.format.name, "mono", stream.rate, frame_size=packet_samples)
    for piece in (*resampler.resample(frame), *resampler.resample(None), None):
        output.mux(stream.encode(piece))


class Checkpoint(Target):
    """What loads has finite embeddings, and of our own format those of the undamaged file."""

    name = "checkpoint"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.clip = 0.1 * torch.randn(1, 4000)
        self.model = serab_byols.create_model("default", d=2)
        self.model.normalization = (-6.0, 5.0)
        self.expected = serab_byols.get_scene_embeddings(self.clip, self.model)

    def originals(self, folder: Path) -> list[Path]:
        ours, published = folder / "a.safetensors", folder / "a.pth"
        serab_byols.save_checkpoint(self.model, ours, statistics=(-6.0, 5.0))
        torch.save(self.model.encoder.state_dict(), published)
        return [ours, published]

    def check(self, path: Path) -> None:
        model = serab_byols.load_model(path)
        embedding = serab_byols.get_scene_embeddings(self.clip, model)
        _check_finite(embedding.numpy())
        if path.suffix == ".safetensors" and not torch.allclose(embedding, self.expected):
            raise Finding("loads without an error, and its embeddings are others")


class List(Target):
    """A list of segments gives finite records and errors, for each of its rows."""

    name = "list"

    def __init__(self) -> None:
        self.model = serab_byols.create_model("default", d=8)

    def originals(self, folder: Path) -> list[Path]:
        path = folder / "list.csv"
        rows = [f"originals/pcm.wav,{start},{start + 0.2}" for start in (0, 0.1, 0.2)]
        path.write_text("\n".join(["path,start,end", *rows, "originals/a.flac,,"]) + "\n", encoding="utf-8")
        return [path]

    def check(self, path: Path) -> None:
        segments = find_segments([str(path)])
        errors: list[object] = []
        records = list(
            serab_byols.embed_files(
                segments, self.model, on_error=lambda segment, error: errors.append(error)
            )
        )
        if len(records) + len(errors) != len(segments):
            raise Finding(f"{len(records)} records and {len(errors)} errors of {len(segments)} segments")
        for record in records:
            _check_finite(record.embedding)


class Manifest(Target):
    """A manifest of labelled clips is read, or refused."""

    name = "manifest"

    def originals(self, folder: Path) -> list[Path]:
        path = folder / "manifest.csv"
        rows = [f"clip{i}.wav,{'ab'[i % 2]},speaker{i % 3},{i % 2}" for i in range(12)]
        path.write_text("\n".join(["path,label,group,fold", *rows]) + "\n", encoding="utf-8")
        return [path]

    def check(self, path: Path) -> None:
        read_manifest(path)


def _check_finite(embedding: np.ndarray) -> None:
    if not np.isfinite(embedding).all():
        raise Finding("an embedding is NaN or infinite")


TARGETS: tuple[Target, ...] = (Audio(), Checkpoint(), List(), Manifest())


def make_originals(folder: Path) -> dict[str, list[Path]]:
    """Undamaged files of every target, by its name."""
    folder.mkdir(exist_ok=True)
    return {target.name: target.originals(folder) for target in TARGETS}
