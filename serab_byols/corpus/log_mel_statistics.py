"""Log-mel and MFCC statistics over time, a baseline without training.

Of the 64 log-mel bands, of 20 mel-frequency cepstral coefficients (Davis and Mermelstein, 1980), and
of the differences of both from column to column. The probe compares embeddings with them, hybrid
pretraining predicts them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from serab_byols.frontend import N_MELS

N_MFCC = 20
N_STATISTICS = (N_MELS + N_MFCC) * 7

STATISTICS = (
    f"mean, standard deviation, minimum, median and maximum over time of {N_MELS} log-mel bands and "
    f"{N_MFCC} MFCCs; mean absolute value and standard deviation of their differences"
)


def log_mel_statistics(log_mel: torch.Tensor) -> torch.Tensor:
    """Seven statistics over time of 84 bands and coefficients.

    Args:
        log_mel: (B, 64, T), float32 or float64, T of at least 1.

    Returns:
        (B, 588) in the same precision; the differences of a single column count as zero.
    """
    cosines = _cosines(log_mel.dtype, log_mel.device)
    rows = torch.cat([log_mel, cosines @ log_mel], dim=1)  # (B, 84, T)
    changes = rows.diff(dim=2) if rows.shape[2] > 1 else torch.zeros_like(rows)
    ordered = rows.sort(dim=2).values
    middle = (rows.shape[2] - 1) / 2
    median = (ordered[:, :, math.floor(middle)] + ordered[:, :, math.ceil(middle)]) / 2
    statistics = [
        rows.mean(dim=2),
        rows.std(dim=2, correction=0),
        ordered[:, :, 0],
        median,
        ordered[:, :, -1],
        changes.abs().mean(dim=2),
        changes.std(dim=2, correction=0),
    ]
    return torch.cat(statistics, dim=1)


@lru_cache(maxsize=8)  # a copy to a GPU would wait for it
@torch.inference_mode(False)
def _cosines(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The first rows (20, 64) of the orthonormal discrete cosine transform, type II."""
    mel = torch.arange(N_MELS, dtype=torch.float64) + 0.5
    order = torch.arange(N_MFCC, dtype=torch.float64)[:, None]
    matrix = torch.cos(math.pi / N_MELS * order * mel) * math.sqrt(2 / N_MELS)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)
