"""Made-up sounds beside speech: coloured and filtered noise, gliding harmonics, clicks.

Usage: python recipes/make_sounds.py FOLDER [--clips 360] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16_000
CLIP_S = 5.0
N_SAMPLES = round(SAMPLE_RATE_HZ * CLIP_S)


def coloured_noise(rng: np.random.Generator) -> np.ndarray:
    """Noise whose spectrum falls, or rises a little, with frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(N_SAMPLES))
    return np.fft.irfft(spectrum * (np.arange(len(spectrum)) + 50.0) ** -rng.uniform(-0.3, 1.3), N_SAMPLES)


def band_of_noise(rng: np.random.Generator) -> np.ndarray:
    """Noise around one frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(N_SAMPLES))
    centre, width = rng.uniform(0, len(spectrum)), np.exp(rng.uniform(np.log(100), np.log(20_000)))
    return np.fft.irfft(
        spectrum * np.exp(-0.5 * ((np.arange(len(spectrum)) - centre) / width) ** 2), N_SAMPLES
    )


def harmonics(rng: np.random.Generator) -> np.ndarray:
    """A tone with overtones whose pitch glides and trembles."""
    time_s = np.arange(N_SAMPLES) / SAMPLE_RATE_HZ
    tremble = rng.uniform(0, 0.2) * np.sin(2 * np.pi * rng.uniform(1, 9) * time_s)
    pitch_hz = np.exp(rng.uniform(np.log(60), np.log(2500)) + rng.normal(0, 0.2) * time_s + tremble)
    phase, decay = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ, rng.uniform(0.3, 2)
    n_overtones = int(rng.integers(2, 20))
    parts = (np.sin(k * phase) * k**-decay * (k * pitch_hz < 7800) for k in range(1, n_overtones))
    return np.sum(list(parts), axis=0)


def clicks(rng: np.random.Generator) -> np.ndarray:
    """Bursts of noise that die away."""
    sound = np.zeros(N_SAMPLES)
    for _ in range(int(rng.integers(1, 150))):
        first, length = int(rng.integers(0, N_SAMPLES)), int(rng.integers(5, 4000))
        burst = rng.standard_normal(length) * np.exp(-np.arange(length) / rng.uniform(3, 1200)) * rng.random()
        sound[first : first + length] += burst[: N_SAMPLES - first]
    return sound


KINDS = (coloured_noise, band_of_noise, harmonics, clicks)


def make_sound(rng: np.random.Generator) -> np.ndarray:
    """One of the kinds under a random envelope, at a random level; float64 (N_SAMPLES,) within [-1, 1]."""
    sound = KINDS[int(rng.integers(len(KINDS)))](rng)
    knots = np.exp(rng.normal(0, rng.uniform(0, 2), 25))
    sound = sound * np.interp(np.arange(N_SAMPLES), np.linspace(0, N_SAMPLES, len(knots)), knots)
    return sound / (np.abs(sound).max() + 1e-9) * np.exp(rng.uniform(np.log(0.01), 0))


def main() -> None:
    """Write the clips as FLAC."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=360)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    for number in range(options.clips):
        soundfile.write(options.folder / f"sound_{number:04d}.flac", make_sound(rng), SAMPLE_RATE_HZ)


if __name__ == "__main__":
    main()
