"""Features of the clips of a corpus, from a table or from openSMILE, for Hybrid BYOL-S to predict."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serab_byols.errors import AudioFileError, InvalidInputError, missing_extra
from serab_byols.frontend import SAMPLE_RATE_HZ
from serab_byols.pretrain.crops import N_DECODING_THREADS, Clip, OnError
from serab_byols.pretrain.progress import SILENT, Reporting

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_LARGEST_SAMPLE = 32767 / 32768
"""openSMILE takes 16-bit integers, and opensmile's conversion makes larger samples negative."""


def opensmile_features(clips: Sequence[Clip], on_error: OnError, reporting: Reporting = SILENT) -> np.ndarray:
    """ComParE 2016 functionals (n_clips, 6373) of whole clips.

    NaN, and a call of ``on_error``, for clips that cannot be decoded or are shorter than its frames.
    """
    try:
        import opensmile
    except ImportError as error:
        raise missing_extra("opensmile", "hybrid", "the ComParE 2016 features") from error
    smile = opensmile.Smile(opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel.Functionals)

    def functionals(clip: Clip) -> np.ndarray | str:
        try:
            samples = np.clip(clip.read(clip.start_s, clip.end_s), -1.0, _LARGEST_SAMPLE)
        except AudioFileError as error:
            return str(error)
        values = smile.process_signal(samples, SAMPLE_RATE_HZ).to_numpy()[0]
        is_too_short = bool(np.isnan(values).all())
        return f"{clip.segment.file}: too short for the ComParE 2016 features" if is_too_short else values

    features = np.full((len(clips), len(smile.feature_names)), np.nan)
    with (
        ThreadPoolExecutor(N_DECODING_THREADS) as threads,
        reporting.track("openSMILE features", len(clips), "clip") as progress,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Segment too short", UserWarning)  # said of the clip, by name
        for row, result in enumerate(threads.map(functionals, clips)):
            progress.update()
            if isinstance(result, str):
                on_error(clips[row].segment.file, result)
            else:
                features[row] = result
    return features


def table_features(path: Path, clips: Sequence[Clip], on_error: OnError) -> np.ndarray:
    """Features (n_clips, n_features) of a table; NaN, and a call of ``on_error``, for clips without a row."""
    keys, features = _keys_and_features(_read_table(path), path)
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
    return np.concatenate([features, np.full((1, features.shape[1]), np.nan)])[rows]


def _row_of_clip(clip: Clip, row_of: dict[tuple[str, int], int]) -> int:
    """-1, the row of NaN, if the table has none."""
    start_ms = round((clip.segment.start_s or 0.0) * 1000)
    row = row_of.get((clip.segment.file, start_ms), -1)
    return row if row >= 0 else row_of.get((os.path.realpath(clip.segment.path), start_ms), -1)


def _read_table(path: Path) -> DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise missing_extra("pandas", "pretrain", "a table of features") from error
    try:
        if path.suffix.lower() == ".parquet":
            table = pandas.read_parquet(path)
            return table if list(table.index.names) == [None] else table.reset_index()
        table = pandas.read_csv(path, dtype={"file": str, "path": str})
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "a table in .parquet") from error
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"the table {path} cannot be read: {error}") from error
    if not isinstance(table.index, pandas.RangeIndex):  # which pandas takes for row labels
        raise InvalidInputError(f"the rows of {path} have more columns than its header")
    return table


def _keys_and_features(table: DataFrame, path: Path) -> tuple[list[tuple[str, int]], np.ndarray]:
    """Name and start in ms of every row (n,), and features (n, n_features), NaN where there is none."""
    name = next((name for name in ("file", "path") if name in table), None)
    if name is None:
        raise InvalidInputError(f"{path} needs a column named 'file' or 'path'; it has {', '.join(table)}")
    features = table.drop(columns=[name, "start", "end"], errors="ignore")
    if features.empty:
        raise InvalidInputError(f"{path} has no features beside the column {name!r}, or no rows")
    try:
        starts_ms = _milliseconds(table["start"]) if "start" in table else [0] * len(table)
        numbers = features.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{path} has a start or a feature that is no number: {error}") from error
    return list(zip(map(str, table[name]), starts_ms)), numbers


def _milliseconds(starts: Series) -> list[int]:
    """Of numbers of seconds, timedeltas, or the text of timedeltas; 0 where there is none."""
    import pandas

    if not pandas.api.types.is_numeric_dtype(starts):
        starts = pandas.to_timedelta(starts).dt.total_seconds()
    return (starts.fillna(0) * 1000).round().astype(int).tolist()
