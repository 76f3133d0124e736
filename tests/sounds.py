"""Sounds for tests, made from formulas so that any sample rate gives the same sound."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

LOSSLESS = {
    "a.wav": {"subtype": "PCM_16"},
    "a.flac": {"subtype": "PCM_16"},
    "a.aiff": {"subtype": "PCM_16"},
}
LOSSY = {
    "a.ogg": {"subtype": "VORBIS"},
    "a.opus": {"subtype": "OPUS", "format": "OGG"},
    "a.mp3": {"subtype": "MPEG_LAYER_III"},
}
FORMATS = {**LOSSLESS, **LOSSY}
"""File names by whose endings soundfile picks the format, and its other arguments."""


def tone(frequency_hz: float, seconds: float, rate_hz: int) -> np.ndarray:
    """A sine of amplitude 0.5, float32 (n,)."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def voice(seed: int = 0, seconds: float = 0.5, rate_hz: int = 16000) -> np.ndarray:
    """A buzz with a pitch, formants and a syllable rate of its own for every seed, float32 (n,)."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz, vibrato_hz, syllables_hz = rng.uniform([90, 2, 2], [250, 7, 6])
    phase = 2 * np.pi * pitch_hz * time_s + 2 * np.sin(2 * np.pi * vibrato_hz * time_s)
    harmonics = np.arange(1, int(3400 / pitch_hz))  # below the Nyquist frequency of every rate used
    levels = rng.uniform(0, 1, len(harmonics)) ** 3 / harmonics**0.5
    sound = (levels[:, None] * np.sin(harmonics[:, None] * phase)).sum(axis=0)
    sound *= 0.6 + 0.4 * np.sin(2 * np.pi * syllables_hz * time_s + rng.uniform(0, 6))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def write(path: str | Path, samples: np.ndarray, rate_hz: int = 16000, **options: object) -> Path:
    """Write (n,) or (n, channels), as 16-bit PCM where nothing else is asked for; returns the path."""
    soundfile.write(path, samples, rate_hz, **options)
    return Path(path)


def not_utf8_folder(parent: Path) -> Path:
    """A new folder whose name is not valid UTF-8; skips where the file system has no such names."""
    folder = os.fsencode(parent) + b"/r\xe9sum\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    return Path(os.fsdecode(folder))
