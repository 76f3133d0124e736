"""What is fuzzed: undamaged files to begin with, and what must hold of a damaged one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

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
        time = np.arange(RATE_HZ // 2) / RATE_HZ
        samples = 0.3 * np.sin(2 * np.pi * 220 * time) + 0.01 * np.random.default_rng(0).normal(
            size=len(time)
        )
        for name, (kind, subtype) in AUDIO.items():
            soundfile.write(folder / name, samples, RATE_HZ, format=kind, subtype=subtype)
        return [folder / name for name in AUDIO]

    def check(self, path: Path) -> None:
        for timestamps in (False, True):
            record = serab_byols.embed_file(path, self.model, timestamps=timestamps, hop_size=1000)
            _check_finite(record.embedding)


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
