"""Hybrid BYOL-S (arXiv 2203.16637, 2206.12038): predicting handcrafted features beside BYOL's own task.

The published training predicts openSMILE's 6373 ComParE 2016 functionals. Its code was not published, and
we do not know whether it took them from the crop that the network sees or from the whole clip. Here those
of openSMILE and of a table are the whole clip's: computed once, and the same for every crop of the clip.
Clips as long as a crop (a list with ``start`` and ``end``) make the two the same. Log-mel statistics are
always the crop's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from serab_byols.corpus.log_mel_statistics import N_STATISTICS, log_mel_statistics
from serab_byols.errors import InvalidInputError
from serab_byols.pretrain.byol import Head
from serab_byols.pretrain.crops import Clip, OnError
from serab_byols.pretrain.distributed import averaged, to_float32
from serab_byols.pretrain.feature_table import opensmile_features, table_features
from serab_byols.pretrain.progress import SILENT, Reporting
from serab_byols.pretrain.running_norm import RunningScale

COMPARE_2016 = "compare2016"
"""openSMILE's ComParE 2016 functionals, 6373 numbers per whole clip."""

LOG_MEL_STATISTICS = "log-mel-statistics"
"""588 numbers per crop; see :mod:`serab_byols.corpus.log_mel_statistics`."""

LARGEST_DEVIATION = 5.0
"""In standard deviations; outliers of functionals would dominate a squared error."""


class ClipFeatures(nn.Module):
    """Standardised features (n_clips, n_features) of a corpus; NaN where unknown.

    Features that do not vary, or are unknown for every clip, are left out.
    """

    values: torch.Tensor

    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        features = np.where(np.isfinite(features), features, np.nan).astype(np.float64)
        features = features[:, np.isfinite(features).any(axis=0)]
        std = np.nanstd(features, axis=0)
        varies = std > 1e-9 * np.nanmax(np.abs(features), axis=0, initial=1e-30)
        if not varies.any():
            raise InvalidInputError("the table of features has none that varies over the corpus")
        features, std = features[:, varies], std[varies]
        standardized = (features - np.nanmean(features, axis=0)) / std
        values = np.clip(standardized, -LARGEST_DEVIATION, LARGEST_DEVIATION).astype(np.float32)
        # Not saved: a training that is resumed reads the same files again.
        self.register_buffer("values", torch.from_numpy(values), persistent=False)

    @property
    def n_features(self) -> int:
        return self.values.shape[1]

    @property
    def identity(self) -> str:
        """What must be the same when a training is resumed."""
        return hashlib.sha256(self.values.cpu().numpy().tobytes()).hexdigest()

    def forward(self, clips: torch.Tensor, log_mel: torch.Tensor | None) -> torch.Tensor:
        """Rows (B, n_features) of the clips (B,) that crops are from."""
        return self.values[clips]


class CropStatistics(nn.Module):
    """Log-mel and MFCC statistics of each crop before augmentation, standardised."""

    n_features = N_STATISTICS
    identity = LOG_MEL_STATISTICS

    def __init__(self) -> None:
        super().__init__()
        self.scale = RunningScale(N_STATISTICS)

    @torch.no_grad()
    def forward(self, clips: torch.Tensor, log_mel: torch.Tensor | None) -> torch.Tensor:
        """Numbers (B, 588) of normalised log-mels (B, 64, T)."""
        assert log_mel is not None
        with torch.autocast(log_mel.device.type, enabled=False):
            values = log_mel_statistics(log_mel)
            scale = self.scale(values)
            return ((values - self.scale.mean) / scale).clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)


Features = ClipFeatures | CropStatistics


def load_features(
    source: str, clips: Sequence[Clip], on_error: OnError, reporting: Reporting = SILENT
) -> Features:
    """The features to predict, of every crop (log-mel statistics) or of every clip (all others).

    Args:
        source: ``"log-mel-statistics"`` of the crops, ``"compare2016"`` of the clips, or a ``.csv`` or
            ``.parquet`` file with a column ``file`` (or ``path``), as in the inputs or relative to the
            table, ``start`` in seconds (or as openSMILE writes it) where clips are segments, perhaps
            ``end``, which is ignored, and numbers in all other columns.
        clips: of the corpus.
        on_error: called for clips without features, which are then used without them.
        reporting: told how far openSMILE is.

    Raises:
        InvalidInputError: a table that cannot be read, or has no such column, a value that is no number,
            or no clip of the corpus.
        MissingExtraError: openSMILE, pandas or pyarrow is needed and not installed.
    """
    if source == LOG_MEL_STATISTICS:
        return CropStatistics()
    if source == COMPARE_2016:
        return ClipFeatures(opensmile_features(clips, on_error, reporting))
    return ClipFeatures(table_features(Path(source), clips, on_error))


class Hybrid(nn.Module):
    """A head on the online representation, and the mean squared error of its predictions."""

    def __init__(self, features: Features, embedding_size: int) -> None:
        super().__init__()
        self.features = features
        self.head = Head(embedding_size, features.n_features)

    def loss(
        self, online: Sequence[torch.Tensor], clips: torch.Tensor, log_mel: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean squared error of the predicted features; missing targets are masked.

        Args:
            online: embeddings (B, D) of each view.
            clips: numbers (B,) of the clips that the crops are from.
            log_mel: of the crops, normalised, not augmented (B, 64, T).
        """
        targets = self.features(clips, log_mel)
        known = targets.isfinite()
        # Averaged over all processes: each has another number of targets, and the mean of their means
        # would not be the mean.
        n_known = averaged(known.sum().float()).clamp_min(1e-6)
        errors = [
            (to_float32(self.head(embedding)) - targets).where(known, 0.0).square().sum() / n_known
            for embedding in online
        ]
        return torch.stack(errors).mean()
