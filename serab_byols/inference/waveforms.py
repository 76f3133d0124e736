"""The ``audio`` argument of the HEAR functions, checked and as a list of float32 tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from serab_byols.errors import InvalidInputError

AudioBatch = torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray]


def to_waveforms(audio: AudioBatch, device: torch.device) -> list[torch.Tensor]:
    """Waveforms (n_i,), float32, on ``device``.

    Args:
        audio: (n_clips, n_samples), or a list of (n_samples,); tensors or arrays, floating point.

    Raises:
        InvalidInputError: another shape, an integer type, an empty clip, or values that are not
            finite. Values beyond [-1, 1] are taken as they are.
    """
    if isinstance(audio, (torch.Tensor, np.ndarray)):
        if audio.ndim != 2:
            hint = "; for one clip pass audio[None, :]" if audio.ndim == 1 else ""
            raise InvalidInputError(
                "audio must have shape (n_clips, n_samples) or be a list of clips, "
                f"got shape {tuple(audio.shape)}{hint}"
            )
        if len(audio) == 0:
            return []
        return list(_float32(audio, "audio", device).unbind())
    if not isinstance(audio, (list, tuple)):
        raise InvalidInputError(
            f"audio must be a tensor, an array, or a list of them, got {type(audio).__name__}"
        )
    return [_waveform(clip, f"clip {i}", device) for i, clip in enumerate(audio)]


def _waveform(clip: torch.Tensor | np.ndarray, label: str, device: torch.device) -> torch.Tensor:
    if not isinstance(clip, (torch.Tensor, np.ndarray)):
        raise InvalidInputError(f"{label} must be a tensor or an array, got {type(clip).__name__}")
    if clip.ndim != 1:
        raise InvalidInputError(f"{label} must have shape (n_samples,), got {tuple(clip.shape)}")
    return _float32(clip, label, device)


def _float32(samples: torch.Tensor | np.ndarray, label: str, device: torch.device) -> torch.Tensor:
    if isinstance(samples, np.ndarray):
        if not np.issubdtype(samples.dtype, np.floating):
            raise _not_floating(label, samples.dtype)
        samples = torch.from_numpy(np.require(samples, np.float32, ["C", "W"]))
    if not samples.is_floating_point():
        raise _not_floating(label, samples.dtype)
    if samples.shape[-1] == 0:
        raise InvalidInputError(f"{label} is empty: it has no samples")
    samples = samples.detach().to(device=device, dtype=torch.float32)
    # A sum is far cheaper than a mask; it is finite unless a value is not, or values are enormous.
    if not samples.sum().isfinite() and not samples.isfinite().all():
        raise InvalidInputError(f"{label} holds values that are not finite (NaN or infinity)")
    return samples


def _not_floating(label: str, dtype: object) -> InvalidInputError:
    return InvalidInputError(
        f"{label} must hold floating-point samples, nominally in [-1, 1], got {dtype}; "
        "divide 16-bit integers by 32768"
    )
