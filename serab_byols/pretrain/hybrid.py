"""Hybrid BYOL-S (arXiv 2203.16637): predicting handcrafted features beside BYOL's own task."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import nn

from serab_byols.corpus.log_mel_statistics import N_STATISTICS, log_mel_statistics
from serab_byols.errors import AudioFileError, InvalidInputError, missing_extra
from serab_byols.frontend import SAMPLE_RATE_HZ
from serab_byols.pretrain.byol import Head
from serab_byols.pretrain.corpus import N_DECODING_THREADS, Clip, OnError, decoded
from serab_byols.pretrain.distributed import averaged, full
from serab_byols.pretrain.statistics import Scale

COMPARE_2016 = "compare2016"
"""openSMILE's ComParE 2016 functionals, 6373 numbers a clip."""

LOG_MEL_STATISTICS = "log-mel-statistics"
"""588 numbers of every crop; see :mod:`serab_byols.corpus.log_mel_statistics`."""

_TIMEDELTA = re.compile(r"(\d+) days?,? (\d+):(\d+):(\d+(?:\.\d+)?)")

LARGEST_DEVIATION = 5.0
"""In standard deviations; functionals have outliers that a squared error would chase."""


class FeatureTable(nn.Module):
    """Standardised features (n_clips, n_features) of a corpus, one row a clip; NaN where unknown.

    Features that do not vary, or are unknown for every clip, are left out.
    """

    values: torch.Tensor

    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        features = np.where(np.isfinite(features), features, np.nan).astype(np.float64)
        known = np.isfinite(features).any(axis=0)
        features = features[:, known]
        std = np.nanstd(features, axis=0) if features.size else np.zeros(0)
        varies = std > 1e-9 * np.maximum(np.nanmax(np.abs(features), axis=0), 1e-30) if features.size else std
        if not np.any(varies):
            raise InvalidInputError("the table of features has none that varies over the corpus")
        features, std = features[:, varies], std[varies]
        standardized = (features - np.nanmean(features, axis=0)) / std
        values = np.clip(standardized, -LARGEST_DEVIATION, LARGEST_DEVIATION).astype(np.float32)
        # Comes from the same files again when a training is resumed.
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
    """Log-mel and MFCC statistics of the very crop, not augmented, standardised as the first ones were."""

    n_features = N_STATISTICS
    identity = LOG_MEL_STATISTICS

    def __init__(self) -> None:
        super().__init__()
        self.scale = Scale(N_STATISTICS)

    @torch.no_grad()
    def forward(self, clips: torch.Tensor, log_mel: torch.Tensor | None) -> torch.Tensor:
        """Numbers (B, 588) of normalised log-mels (B, 64, T)."""
        assert log_mel is not None
        with torch.autocast(log_mel.device.type, enabled=False):
            values = log_mel_statistics(log_mel)
            scale = self.scale(values)
            return ((values - self.scale.mean) / scale).clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)


Features = FeatureTable | CropStatistics


class Hybrid(nn.Module):
    """A head on the online representation, and the mean squared error of what it predicts."""

    def __init__(self, features: Features, embedding_size: int) -> None:
        super().__init__()
        self.features = features
        self.head = Head(embedding_size, features.n_features)

    def loss(
        self, online: Sequence[torch.Tensor], clips: torch.Tensor, log_mel: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Of embeddings (B, D) of each view, against the crops' features; unknown numbers are free.

        Args:
            online: embeddings (B, D) of each view.
            clips: numbers (B,) of the clips that the crops are from.
            log_mel: of the crops, normalised, not augmented (B, 64, T).
        """
        wanted = self.features(clips, log_mel)
        known = wanted.isfinite()
        # Of all processes: each has its own number, and the mean of their means would not be the mean.
        n_known = averaged(known.sum().float()).clamp_min(1e-6)
        errors = [
            (full(self.head(embedding)) - wanted).where(known, 0.0).square().sum() / n_known
            for embedding in online
        ]
        return torch.stack(errors).mean()


def load_features(source: str, clips: Sequence[Clip], on_error: OnError) -> Features:
    """What is to be predicted: numbers of every crop, or of every clip.

    Args:
        source: ``"log-mel-statistics"`` of the crops; ``"compare2016"``; or a ``.csv`` or ``.parquet``
            file with a column ``file`` (or ``path``), as in the inputs or relative to the table, ``start``
            in seconds where the clips are segments (``end`` is not looked at), and numbers in all others.
        clips: of the corpus.
        on_error: told of clips without features, which then are trained without them.

    Raises:
        InvalidInputError: a table that cannot be read, has no such column or no clip of the corpus.
        MissingExtraError: openSMILE or pyarrow is not installed.
    """
    if source == LOG_MEL_STATISTICS:
        return CropStatistics()
    if source == COMPARE_2016:
        return FeatureTable(_opensmile_features(clips, on_error))
    return FeatureTable(_table_features(Path(source), clips, on_error))


def _opensmile_features(clips: Sequence[Clip], on_error: OnError) -> np.ndarray:
    try:
        import opensmile
    except ImportError as error:
        raise missing_extra("opensmile", "hybrid", "the ComParE 2016 features") from error
    from tqdm import tqdm

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.ComParE_2016, feature_level=opensmile.FeatureLevel.Functionals
    )

    def one(clip: Clip) -> np.ndarray | str:
        try:
            return smile.process_signal(decoded(clip, clip.start_s, clip.end_s), SAMPLE_RATE_HZ).to_numpy()[0]
        except AudioFileError as error:
            return str(error)

    nothing = np.full(len(smile.feature_names), np.nan)
    with ThreadPoolExecutor(N_DECODING_THREADS) as threads:
        rows = list(
            tqdm(threads.map(one, clips), total=len(clips), unit="clip", desc="openSMILE", disable=None)
        )
    for clip, row in zip(clips, rows):
        if isinstance(row, str):
            on_error(clip.segment.file, row)
    return np.stack([nothing if isinstance(row, str) else row for row in rows])


def _table_features(path: Path, clips: Sequence[Clip], on_error: OnError) -> np.ndarray:
    keys, features = _read_table(path)
    row_of: dict[tuple[str, int], int] = {}
    for row, (name, start_ms) in enumerate(keys):
        row_of[name, start_ms] = row_of[str((path.parent / name).resolve()), start_ms] = row
    rows = [_row_of_clip(clip, row_of) for clip in clips]
    if max(rows) < 0:
        raise InvalidInputError(
            f"{path} has no row for any clip of the corpus, such as {clips[0].segment.file}"
        )
    for clip, row in zip(clips, rows):
        if row < 0:
            on_error(clip.segment.file, f"{clip.segment.file}: no row in {path}")
    nothing = np.full((1, features.shape[1]), np.nan)
    return np.concatenate([features, nothing])[rows]


def _row_of_clip(clip: Clip, row_of: dict[tuple[str, int], int]) -> int:
    """-1 if the table has none."""
    start_ms = _milliseconds(clip.segment.start_s)
    names = (clip.segment.file, str(clip.segment.path.resolve()))
    return next((row_of[name, start_ms] for name in names if (name, start_ms) in row_of), -1)


def _milliseconds(start: object) -> int:
    """Of seconds, a timedelta, or the text of one, as in openSMILE's tables; 0 where there is none."""
    if start is None or start == "":
        return 0
    if isinstance(start, timedelta):
        return round(start.total_seconds() * 1000)
    match = _TIMEDELTA.fullmatch(str(start))
    if match is None:
        return round(float(str(start)) * 1000)
    days, hours, minutes, seconds = (float(part) for part in match.groups())
    return round((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000)


def _read_table(path: Path) -> tuple[list[tuple[str, int]], np.ndarray]:
    """Names and starts in ms (n,), and numbers (n, n_features), NaN where there is none."""
    columns = _parquet_columns(path) if path.suffix.lower() == ".parquet" else _csv_columns(path)
    name = next((name for name in ("file", "path") if name in columns), None)
    if name is None:
        raise InvalidInputError(f"{path} needs a column named 'file' or 'path'; it has {', '.join(columns)}")
    names = [str(value) for value in columns.pop(name)]
    starts = columns.pop("start", [None] * len(names))
    columns.pop("end", None)
    if not columns or not names:
        raise InvalidInputError(f"{path} has no features beside the column {name!r}, or no rows")
    try:
        keys = [(name, _milliseconds(start)) for name, start in zip(names, starts)]
        numbers = [np.array([_number(value) for value in column]) for column in columns.values()]
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{path} has a start or a feature that is no number: {error}") from error
    return keys, np.stack(numbers, axis=1)


def _number(value: object) -> float:
    return float("nan") if value is None or value == "" else float(value)  # type: ignore[arg-type]


def _csv_columns(path: Path) -> dict[str, list[object]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = [row for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"the table {path} cannot be read: {error}") from error
    uneven = next((row for row in rows if len(row) != len(header)), None)
    if uneven is not None:
        raise InvalidInputError(f"{path} has {len(header)} columns, but a row of {len(uneven)}")
    return {name: [row[k] for row in rows] for k, name in enumerate(header)}


def _parquet_columns(path: Path) -> dict[str, list[object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "a table in .parquet") from error
    try:
        return pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise InvalidInputError(f"the table {path} cannot be read: {error}") from error
