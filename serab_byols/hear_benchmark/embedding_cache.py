"""Embeddings of a task's files, computed once and kept on disk, some files at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serab_byols.atomic_write import atomic_write
from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.embedding_module import HearModule
from serab_byols.hear_benchmark.task_folder import HearTask

FILES_PER_PART = 128
"""Embeddings of about so many files are in one file on disk; what a kill can lose."""

Progress = Callable[[str, int, int], None]
"""What is done, how much of it, of how much."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a split's files.

    Attributes:
        files: names of them.
        embeddings: a row (D,) for each file, or (T, D) of its timestamps; float32.
        timestamps_ms: (T,) for each file; none for scenes.
    """

    files: tuple[str, ...]
    embeddings: tuple[np.ndarray, ...]
    timestamps_ms: tuple[np.ndarray, ...] = ()


def batch_size(duration_s: float | None, sample_rate_hz: int) -> int:
    """Files that are embedded together, as in HEAR's kit; one where files differ in length."""
    if duration_s is None:
        return 1
    return max(1, int(0.7 * (120 / duration_s) * (16000 / sample_rate_hz)))  # 84 s at 16 kHz, rounded so


def embed_split(
    task: HearTask, split: str, module: HearModule, folder: Path, on_progress: Progress | None = None
) -> Embedded:
    """Embed the files of a split, or read what an earlier call has left.

    Args:
        task, split: what to embed.
        module: with what.
        folder: where embeddings are kept; its owner sees to it that they are of this task and module.
        on_progress: called after every batch.

    Raises:
        InvalidInputError: the module's results are not as the API says, or files of a task of one duration
            differ in length.
        AudioFileError: a file cannot be read.
    """
    files = tuple(task.truth[split])
    size = batch_size(task.duration_s, module.sample_rate_hz)
    per_part = size * max(1, round(FILES_PER_PART / size))
    folder.mkdir(parents=True, exist_ok=True)
    embeddings: list[np.ndarray] = []
    timestamps_ms: list[np.ndarray] = []
    for first in range(0, len(files), per_part):
        path = folder / f"{split}-{first:06d}.npz"
        if not path.is_file():
            part = files[first : first + per_part]
            stage = f"{task.name}: embedding {split}"
            _write_part(
                path, _embedded(task, split, part, module, size, stage, first, len(files), on_progress)
            )
        rows, times = _read_part(path, task.of_events)
        embeddings += rows
        timestamps_ms += times
    return Embedded(files, tuple(embeddings), tuple(timestamps_ms))


def _embedded(
    task: HearTask,
    split: str,
    files: Sequence[str],
    module: HearModule,
    size: int,
    stage: str,
    n_before: int,
    n_total: int,
    on_progress: Progress | None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """For each file its embedding (D,), or embeddings (T, D) and timestamps."""
    for first in range(0, len(files), size):
        batch = files[first : first + size]
        audio = _stacked(task, split, batch, module.sample_rate_hz)
        if task.of_events:
            yield from zip(*module.timestamps(audio))
        else:
            yield from ((row, None) for row in module.scenes(audio))
        if on_progress:
            on_progress(stage, n_before + first + len(batch), n_total)


def _stacked(task: HearTask, split: str, files: Sequence[str], sample_rate_hz: int) -> np.ndarray:
    clips = [task.read_audio(split, file, sample_rate_hz) for file in files]
    for file, clip in zip(files, clips):
        if len(clip) != len(clips[0]):
            raise InvalidInputError(
                f"{task.folder}: its files are to be of {task.duration_s:g} s each, and {files[0]} has "
                f"{len(clips[0])} samples, {file} {len(clip)}"
            )
    return np.stack(clips)


def _write_part(path: Path, embedded: Iterator[tuple[np.ndarray, np.ndarray | None]]) -> None:
    rows, times = zip(*embedded)
    arrays = {"embeddings": np.stack(rows) if times[0] is None else np.concatenate(rows)}
    if times[0] is not None:
        arrays["timestamps_ms"] = np.concatenate(times)
        arrays["n_timestamps"] = np.array([len(of_file) for of_file in times])
    with atomic_write(path) as scratch, scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read_part(path: Path, of_events: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        if not of_events:
            return list(arrays["embeddings"]), []
        ends = np.cumsum(arrays["n_timestamps"])[:-1]
        return np.split(arrays["embeddings"], ends), np.split(arrays["timestamps_ms"], ends)
