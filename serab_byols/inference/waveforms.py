"""The ``audio`` argument of the HEAR functions, checked and as a list of float32 tensors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from serab_byols.errors import InvalidInputError
from serab_byols.model import check_dense

MAX_AMPLITUDE = 1e12
"""Full scale is 1; integers kept as floats reach 2e9. Larger values are not audio (bytes read as the
wrong type), and their power would overflow float32 and make the embedding NaN."""

_UNSCALED_AMPLITUDE = 1000.0
_MAX_CHANNELS = 32

AudioBatch = torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray]


def to_waveforms(audio: AudioBatch, device: torch.device) -> list[torch.Tensor]:
    """Waveforms (n_i,), float32, on ``device``.

    Args:
        audio: (n_clips, n_samples), or a list of (n_samples,); tensors or arrays, floating point.

    Values beyond [-1, 1] are taken as they are; a peak that only integers have is warned of.

    Raises:
        InvalidInputError: another shape, an integer type, an empty clip, values that are not finite or
            beyond :data:`MAX_AMPLITUDE`, or a tensor that is not dense and in memory.
    """
    if isinstance(audio, (torch.Tensor, np.ndarray)):
        _check_dense(audio, "audio")
        if audio.ndim != 2:
            hint = "; for one clip pass audio[None, :]" if audio.ndim == 1 else ""
            raise InvalidInputError(
                "audio must have shape (n_clips, n_samples) or be a list of clips, "
                f"got shape {tuple(audio.shape)}{hint}"
            )
        if len(audio) == 0:
            return []
        if len(audio) > _MAX_CHANNELS >= audio.shape[1] > 0:
            raise InvalidInputError(
                f"audio of shape {tuple(audio.shape)} would be {len(audio)} clips of {audio.shape[1]} "
                "samples: it looks like (n_samples, n_channels); pass audio.mean(1)[None] for one clip"
            )
        return list(_float32(audio, "audio", device).unbind())
    if not isinstance(audio, (list, tuple)):
        raise InvalidInputError(
            f"audio must be a tensor, an array, or a list of them, got {type(audio).__name__}"
        )
    return [_waveform(clip, f"clip {i}", device) for i, clip in enumerate(audio)]


def _waveform(clip: object, label: str, device: torch.device) -> torch.Tensor:
    if isinstance(clip, (int, float)):
        raise InvalidInputError(
            f"{label} is a number: pass the samples of one clip as torch.tensor(samples)[None]"
        )
    if not isinstance(clip, (torch.Tensor, np.ndarray)):
        raise InvalidInputError(f"{label} must be a tensor or an array, got {type(clip).__name__}")
    _check_dense(clip, label)
    if clip.ndim != 1:
        raise InvalidInputError(f"{label} must have shape (n_samples,), got {tuple(clip.shape)}")
    return _float32(clip, label, device)


def _float32(samples: torch.Tensor | np.ndarray, label: str, device: torch.device) -> torch.Tensor:
    if isinstance(samples, np.ndarray):
        if not np.issubdtype(samples.dtype, np.floating):
            raise _not_floating(label, samples.dtype)
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            samples = np.require(samples, np.float32, ["C", "W"])
        if min(samples.strides) < 0:  # of an axis of length one, which NumPy takes for contiguous
            samples = samples.copy()
        samples = torch.from_numpy(samples)
    if not samples.is_floating_point():
        raise _not_floating(label, samples.dtype)
    if samples.shape[-1] == 0:
        raise InvalidInputError(f"{label} is empty: it has no samples")
    samples = samples.detach().to(device=device, dtype=torch.float32)
    _check_values(samples, label)
    return samples


def _check_dense(samples: torch.Tensor | np.ndarray, label: str) -> None:
    """Refuse tensors without ordinary values, and arrays whose mask would be lost."""
    if isinstance(samples, np.ma.MaskedArray):
        raise InvalidInputError(f"{label} is a masked array: fill it, or pass its unmasked part")
    if isinstance(samples, torch.Tensor):
        check_dense(samples, label)


def _check_values(samples: torch.Tensor, label: str) -> None:
    low, high = samples.aminmax()  # both are NaN where a value is
    peak = float(torch.maximum(-low, high))  # one wait for the device
    if not peak <= MAX_AMPLITUDE:
        raise InvalidInputError(
            f"{label} holds values that are not finite (NaN or infinity), or beyond {MAX_AMPLITUDE:g}"
        )
    if peak >= _UNSCALED_AMPLITUDE:
        warnings.warn(
            f"{label} has a peak of {peak:g}, where full scale is 1: integers that were cast to float "
            "without scaling? Divide 16-bit samples by 32768",
            stacklevel=5,
        )


def _not_floating(label: str, dtype: object) -> InvalidInputError:
    return InvalidInputError(
        f"{label} must hold floating-point samples, nominally in [-1, 1], got {dtype}; "
        "divide 16-bit integers by 32768"
    )
