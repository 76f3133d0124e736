"""Regenerate ``frontend_torchaudio_2_11.npz``, the reference the log-mel front ends are tested on.

The numbers come from ``torchaudio.transforms.MelSpectrogram``, not from this package, so that a
front end is compared with an independent implementation. The tests read the file alone; running
this script is needed only to change the set of waveforms. It wants exactly these releases::

    pip install torch==2.11.0 torchaudio==2.11.0 numpy
    python tests/golden/make_frontend_golden.py

For every waveform the file holds ``<name>__waveform``, float32 (n,) at 16 kHz, and
``<name>__log_mel``, float32 (64, T), T = 1 + floor(n / 160). ``versions`` is an array of strings
such as ``"torch==2.11.0"``.

The waveforms come from a raw PCG64 bit stream and are rounded to 16 bits, so they depend neither on
numpy's distributions nor on the last bit of a sine.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.transforms import MelSpectrogram

REQUIRED = {"torch": "2.11.0", "torchaudio": "2.11.0"}
OUTPUT = Path(__file__).with_name("frontend_torchaudio_2_11.npz")

SAMPLE_RATE_HZ = 16000
INT16_STEP = 1.0 / 32768.0

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


def uniform_noise(seed: int, n_samples: int) -> Float64Array:
    """Noise, uniform on [-1, 1), from the top 53 bits of each word of a PCG64 stream."""
    words = np.random.PCG64(seed).random_raw(n_samples)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def time_axis(n_samples: int) -> Float64Array:
    """Time of every sample, in seconds."""
    return np.arange(n_samples, dtype=np.float64) / SAMPLE_RATE_HZ


def to_16_bit(waveform: Float64Array) -> Float32Array:
    """Round to the 16-bit grid, as if read from a WAV file; the values are exact in float32."""
    steps = np.clip(np.rint(waveform / INT16_STEP), -32768, 32767)
    return (steps * INT16_STEP).astype(np.float32)


def white_noise() -> Float32Array:
    """One second of noise at half scale."""
    return to_16_bit(0.5 * uniform_noise(seed=1, n_samples=16000))


def two_tone() -> Float32Array:
    """Tones at 440 and 3150 Hz over faint noise; 5901 samples (0.37 s), no multiple of the hop."""
    n_samples = 5901
    t = time_axis(n_samples)
    tones = 0.4 * np.sin(2 * np.pi * 440.0 * t) + 0.2 * np.sin(2 * np.pi * 3150.0 * t + 0.7)
    return to_16_bit(tones + 0.01 * uniform_noise(seed=2, n_samples=n_samples))


def voice() -> Float32Array:
    """1.63 s of harmonics of 130 Hz with falling level, modulated at 4 Hz as syllables are."""
    t = time_axis(26080)
    harmonics = np.zeros_like(t)
    for order in range(1, 41):
        harmonics += np.sin(2 * np.pi * 130.0 * order * t + 0.3 * order**2) / order
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * 4.0 * t)
    return to_16_bit(0.25 * envelope * harmonics)


def shortest() -> Float32Array:
    """Noise of 513 samples, the fewest that reflection padding by 512 allows."""
    return to_16_bit(0.3 * uniform_noise(seed=3, n_samples=513))


def loud() -> Float32Array:
    """Half a second of noise up to amplitude 3, beyond [-1, 1]; float32, not on the 16-bit grid."""
    return (3.0 * uniform_noise(seed=4, n_samples=8000)).astype(np.float32)


def silence() -> Float32Array:
    """Half a second of digital silence."""
    return np.zeros(8000, dtype=np.float32)


def impulse_train() -> Float32Array:
    """Half a second with an impulse of 0.5 every 1000 samples, so some windows hold only zeros."""
    waveform = np.zeros(8000, dtype=np.float32)
    waveform[300::1000] = 0.5
    return waveform


WAVEFORMS = (white_noise, two_tone, voice, shortest, loud, silence, impulse_train)


def log_mel(waveform: Float32Array) -> Float32Array:
    """Natural logarithm of the mel power, (64, T), as torchaudio computes it on the CPU."""
    mel_spectrogram = MelSpectrogram(
        sample_rate=SAMPLE_RATE_HZ,
        n_fft=1024,
        win_length=400,
        hop_length=160,
        n_mels=64,
        f_min=60.0,
        f_max=7800.0,
        window_fn=torch.hann_window,
        power=2.0,
        center=True,
        pad_mode="reflect",
        norm=None,
        mel_scale="htk",
    )
    mel = mel_spectrogram(torch.from_numpy(waveform)[None])[0]
    return torch.log(mel + torch.finfo(torch.float32).eps).numpy()


def main() -> None:
    """Write the file next to this script."""
    installed = {name: version(name) for name in ("torch", "torchaudio", "numpy")}
    for name, wanted in REQUIRED.items():
        if installed[name] != wanted:
            raise SystemExit(f"needs {name}=={wanted}, found {installed[name]}")

    arrays: dict[str, Any] = {
        "versions": np.array([f"{name}=={release}" for name, release in installed.items()])
    }
    for generate in WAVEFORMS:
        waveform = generate()
        arrays[f"{generate.__name__}__waveform"] = waveform
        arrays[f"{generate.__name__}__log_mel"] = log_mel(waveform)
    np.savez_compressed(OUTPUT, **arrays)
    print(f"{OUTPUT.name}: {len(WAVEFORMS)} waveforms, {OUTPUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
