"""Log-mel front ends: waveform (B, n) to log-mel spectrogram (B, 64, T), T = 1 + floor(n / 160).

The recipe is that of BYOL-S (arXiv 2110.03414): 16 kHz, windows of 25 ms every 10 ms, FFT of 1024, 64
triangular HTK-mel bands from 60 to 7800 Hz, natural logarithm of the power. All but the window is that of
BYOL-A (arXiv 2103.06695), whose windows have 64 ms. Three implementations agree on it:

* ``"torch"`` (default): ``torch.fft``; needs nothing but torch.
* ``"nnaudio"``: the STFT as a convolution, for targets to which an FFT cannot be exported.
* ``"torchaudio"``: ``torchaudio.transforms.MelSpectrogram``.

Buffers follow the model across devices, are never saved in state dicts and never leave float32
(or float64): a window in bfloat16 would ruin the spectrogram for good.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.errors import InvalidInputError, missing_extra

SAMPLE_RATE_HZ = 16000
N_FFT = 1024
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
N_MELS = 64
F_MIN_HZ = 60.0
F_MAX_HZ = 7800.0
LOG_OFFSET = float(np.finfo(np.float32).eps)
"""Added to the mel power before the logarithm; digital silence gives ln(1.19e-7) = -15.94."""

PAD_SAMPLES = N_FFT // 2
MIN_SAMPLES = PAD_SAMPLES + 1
"""Reflection needs one sample more than the padding."""

RECIPE = {
    "sample_rate_hz": SAMPLE_RATE_HZ,
    "n_fft": N_FFT,
    "window": "hann",
    "window_samples": WINDOW_SAMPLES,
    "hop_samples": HOP_SAMPLES,
    "n_mels": N_MELS,
    "f_min_hz": F_MIN_HZ,
    "f_max_hz": F_MAX_HZ,
    "mel_scale": "htk",
    "log_offset": LOG_OFFSET,
}
"""What a checkpoint records about its input, whichever implementation computes it."""

_MARGIN = (N_FFT - WINDOW_SAMPLES) // 2
_BLOCK_COLUMNS = 800
"""Columns per FFT call: their spectrum, 3 MB, stays in the cache, and memory is bounded for any clip."""


def mel_edges_hz() -> np.ndarray:
    """Frequencies (66,), equally spaced in mel; band k rises from k, peaks at k + 1, falls to k + 2."""
    lowest, highest = 2595.0 * np.log10(1.0 + np.array([F_MIN_HZ, F_MAX_HZ]) / 700.0)
    return 700.0 * (10.0 ** (np.linspace(lowest, highest, N_MELS + 2) / 2595.0) - 1.0)


def mel_filterbank() -> np.ndarray:
    """Triangular mel filters, float64 (513 frequency bins, 64 mels), peak 1, no area normalisation."""
    edges_hz = mel_edges_hz()
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, N_FFT // 2 + 1)[:, None]
    left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz - left) / (centre - left)
    falling = (right - bins_hz) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def _filter_groups(edges: tuple[int, ...]) -> list[tuple[slice, int]]:
    """Filters from one edge to the next, and the bin after the last one with a weight in any of them."""
    nonzero = mel_filterbank() > 0
    ends = [N_FFT // 2 + 1 - int(np.argmax(nonzero[::-1, mel])) for mel in range(N_MELS)]
    return [(slice(first, last), ends[last - 1]) for first, last in itertools.pairwise(edges)]


_FILTER_GROUPS = _filter_groups((0, 32, 48, N_MELS))
"""Low filters are narrow, and products with the zeros above them would be half of the work."""


def hann_window() -> np.ndarray:
    """Periodic Hann window, float64 (400,)."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)


class LogMelFrontend(nn.Module):
    """Base of the front ends: checks, float32 arithmetic, logarithm.

    Shape:
        - input: waveform (B, n), floating point, nominally in [-1, 1], n of at least 513 samples
        - output: log-mel (B, 64, T), T = 1 + floor(n / 160), float32 (float64 for float64 input)
    """

    name: str

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        if waveform.ndim != 2:
            raise InvalidInputError(
                f"the front end takes a waveform of shape (batch, samples), got {tuple(waveform.shape)}"
            )
        if waveform.shape[1] < MIN_SAMPLES:
            raise InvalidInputError(
                f"the front end needs at least {MIN_SAMPLES} samples to reflect its padding, "
                f"got {waveform.shape[1]}"
            )
        # Mixed precision is for the encoder: the power spectrum spans more than 16 bits can hold.
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.log(self.mel_power(waveform.to(self.dtype)) + LOG_OFFSET)

    def mel_power(self, waveform: torch.Tensor) -> torch.Tensor:
        """Mel power (B, 64, T) of a waveform (B, n) in this front end's own precision."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the buffers, float32 or float64."""
        return next(self.buffers()).dtype

    def _register(self, name: str, values: torch.Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> LogMelFrontend:
        """Follow ``.to()`` and the like to another device or to float64, but never below float32."""

        def keep_precision(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize:
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        super()._apply(keep_precision, recurse)
        return self


class TorchFrontend(LogMelFrontend):
    """The default front end, on ``torch.fft``; with the same windows as ``torch.stft``."""

    name = "torch"
    window: torch.Tensor
    mel_fb: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._register("window", torch.from_numpy(hann_window()).float())
        self._register("mel_fb", torch.from_numpy(mel_filterbank()).float())

    def mel_power(self, waveform: torch.Tensor) -> torch.Tensor:
        return self._unpadded(F.pad(waveform[:, None], (PAD_SAMPLES, PAD_SAMPLES), mode="reflect")[:, 0])

    def log_mel_unpadded(self, padded: torch.Tensor) -> torch.Tensor:
        """Log-mel (B, 64, 1 + (m - 1024) // 160) of samples (B, m) that are padded already."""
        with torch.autocast(padded.device.type, enabled=False):
            return torch.log(self._unpadded(padded.to(self.dtype)) + LOG_OFFSET)

    def log_mel_of_windows(self, samples: torch.Tensor) -> torch.Tensor:
        """Log-mel columns (N, 64) of the samples (N, 400) under N positions of the window."""
        with torch.autocast(samples.device.type, enabled=False):
            windowed = F.pad(samples.to(self.dtype) * self.window, (_MARGIN, _MARGIN))
            return torch.log(_mel_power(windowed, self._filters()) + LOG_OFFSET)

    def _unpadded(self, padded: torch.Tensor) -> torch.Tensor:
        windows = padded.unfold(1, N_FFT, HOP_SAMPLES)  # (B, T, 1024), a view
        window, filters = F.pad(self.window, (_MARGIN, _MARGIN)), self._filters()
        clips = []
        for some in windows.split(max(1, _BLOCK_COLUMNS // windows.shape[1])):
            blocks = [_mel_power(block * window, filters) for block in some.split(_BLOCK_COLUMNS, dim=1)]
            clips.append(torch.cat(blocks, dim=1))
        return torch.cat(clips).transpose(1, 2)

    def _filters(self) -> list[torch.Tensor]:
        """Groups of neighbouring filters, as (2 * bins up to their last nonzero weight, some mels).

        Every bin is repeated: one matrix product adds re^2 and im^2 and weights them.
        """
        doubled = self.mel_fb.repeat_interleave(2, dim=0)
        return [doubled[: 2 * end, mels] for mels, end in _FILTER_GROUPS]


def _mel_power(windowed: torch.Tensor, filters: list[torch.Tensor]) -> torch.Tensor:
    """Mel power (..., 64) of windowed samples (..., 1024)."""
    parts = torch.view_as_real(torch.fft.rfft(windowed)).flatten(
        -2
    )  # (..., 1026), real and imaginary parts alternate
    power = parts * parts
    return torch.cat([torch.matmul(power[..., : len(some)], some) for some in filters], dim=-1)


class NnAudioFrontend(LogMelFrontend):
    """The STFT as a strided convolution, by nnAudio; the mel filterbank is the same as elsewhere."""

    name = "nnaudio"
    mel_fb: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        try:
            from nnAudio.features.stft import STFT
        except ImportError as error:
            raise missing_extra("nnAudio", "nnaudio", 'frontend="nnaudio"') from error
        self._register("mel_fb", torch.from_numpy(mel_filterbank()).float())
        self.stft = STFT(
            n_fft=N_FFT,
            win_length=WINDOW_SAMPLES,
            hop_length=HOP_SAMPLES,
            window="hann",
            center=True,
            pad_mode="reflect",
            output_format="Complex",
            sr=SAMPLE_RATE_HZ,
            verbose=False,
        )
        _keep_out_of_state_dict(self.stft)

    def mel_power(self, waveform: torch.Tensor) -> torch.Tensor:
        power = self.stft(waveform).square().sum(dim=-1)
        return torch.matmul(self.mel_fb.T, power)


class TorchaudioFrontend(LogMelFrontend):
    """``torchaudio.transforms.MelSpectrogram``, what the published weights were trained with."""

    name = "torchaudio"

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchaudio.transforms import MelSpectrogram
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            # A torchaudio built for another torch fails in any of these ways.
            raise missing_extra("torchaudio", "torchaudio", 'frontend="torchaudio"') from error
        self.mel_spectrogram = MelSpectrogram(
            sample_rate=SAMPLE_RATE_HZ,
            n_fft=N_FFT,
            win_length=WINDOW_SAMPLES,
            hop_length=HOP_SAMPLES,
            n_mels=N_MELS,
            f_min=F_MIN_HZ,
            f_max=F_MAX_HZ,
        )
        _keep_out_of_state_dict(self.mel_spectrogram)

    def mel_power(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.mel_spectrogram(waveform)


def _keep_out_of_state_dict(module: nn.Module) -> None:
    """Make every buffer below ``module`` non-persistent: checkpoints hold encoder weights only."""
    for part in module.modules():
        for name, values in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, values, persistent=False)


FrontendName = Literal["torch", "nnaudio", "torchaudio"]

FRONTENDS: dict[str, type[LogMelFrontend]] = {
    frontend.name: frontend for frontend in (TorchFrontend, NnAudioFrontend, TorchaudioFrontend)
}


def create_frontend(name: str) -> LogMelFrontend:
    """The front end called ``name``: ``"torch"``, ``"nnaudio"`` or ``"torchaudio"``.

    Raises:
        InvalidInputError: no front end has that name.
        MissingExtraError: its package does not import.
    """
    if name not in FRONTENDS:
        raise InvalidInputError(f"unknown front end {name!r}; choose from {', '.join(FRONTENDS)}")
    return FRONTENDS[name]()
