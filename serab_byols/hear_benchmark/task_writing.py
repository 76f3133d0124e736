"""Write a HEAR task folder: audio of one length at the wanted rates, labels or events, metadata."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from serab_byols.corpus.decoding import AudioClip
from serab_byols.errors import AudioFileError, InvalidInputError, SerabByolsError
from serab_byols.hear_benchmark.event_scores import MS_PER_S, Event
from serab_byols.hear_benchmark.prediction_scores import score_of_name
from serab_byols.hear_benchmark.task_folder import METADATA_FILE, VOCABULARY_FILE
from serab_byols.hear_benchmark.task_manifest import SourceClip, check_labels, file_names
from serab_byols.hear_benchmark.task_splits import TaskSplits, split_clips
from serab_byols.probe.manifest import in_order

RATES_HZ = (16000, 22050, 32000, 44100, 48000)
"""Those that HEAR allows."""

MODE = "full"
EVALUATION = {
    "multiclass": ("top1_acc", "mAP", "d_prime", "aucroc"),
    "multilabel": ("mAP", "d_prime", "aucroc", "top1_acc"),
    "event": ("event_onset_200ms_fms", "segment_1s_er"),
}
"""Scores, where none are asked for; as HEAR's tasks of that kind have them."""

BadFile = Callable[[SourceClip, SerabByolsError], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TaskSettings:
    """What a task is to be.

    Attributes:
        name, version: the folder is named ``NAME-VERSION-full``.
        events: of events in clips; else of whole clips.
        multilabel: any number of labels; None: if some clip has not just one. Events are always.
        duration_s: of every file: longer clips are cut at the end, shorter ones filled with zeros.
            ``None``: as long as the longest clip. ``"original"``: files keep their length.
        rates_hz: of the files.
        evaluation: names of scores, the first is the one to select by; by default as HEAR's tasks have.
        n_folds: of random folds.
        seed: of random splits.
    """

    name: str
    version: str = "v1"
    events: bool = False
    multilabel: bool | None = None
    duration_s: float | str | None = None
    rates_hz: Sequence[int] = (48000,)
    evaluation: Sequence[str] = ()
    n_folds: int | None = None
    seed: int = 0


class WrittenTask(NamedTuple):
    """A task that was written.

    Attributes:
        folder: of it.
        n_files: in each split.
        metadata: as in the folder.
        split: how clips were split, in words.
        notes: what its user should know.
    """

    folder: Path
    n_files: dict[str, int]
    metadata: dict[str, Any]
    split: str
    notes: list[str]


def write_task(
    clips: Sequence[SourceClip],
    folder: Path,
    settings: TaskSettings,
    on_error: BadFile | None = None,
    on_progress: Progress | None = None,
) -> WrittenTask:
    """Write a task into a folder of tasks; it appears there whole or not at all.

    Args:
        clips: from :func:`read_task_manifest`.
        folder: of tasks; made if need be.
        settings: of the task.
        on_error: called with clips whose audio cannot be read; without it they raise.
        on_progress: called after every clip.

    Raises:
        InvalidInputError: the task exists already; settings, labels or splits that HEAR could not read.
        AudioFileError: a clip cannot be read, without ``on_error``.
    """
    _check(settings)
    target = folder / f"{settings.name}-{settings.version}-{MODE}"
    if target.exists():
        raise InvalidInputError(f"{target} exists already: remove it, or choose another name or version")
    all_labels = [set(clip.labels) | {event.label for event in clip.events} for clip in clips]
    check_labels(set().union(*all_labels))
    splits = split_clips(clips, all_labels, settings.n_folds, settings.seed)
    kind = _kind(clips, settings)
    names = file_names(clips)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=folder) as scratch:
        written = _Writer(Path(scratch), clips, names, splits, kind, settings)
        written.write_audio(on_error, on_progress)
        result = written.write_texts(target)
        Path(scratch).chmod(0o755)
        Path(scratch).rename(target)
        Path(scratch).mkdir()  # for the context manager to remove
    return result


def _check(settings: TaskSettings) -> None:
    for what in ("name", "version"):
        value = getattr(settings, what)
        if not re.fullmatch(r"[A-Za-z0-9][\w.]*(-[\w.]+)*", value, flags=re.ASCII):
            raise InvalidInputError(f"the {what} {value!r} is to be of letters, digits, '_', '.' and '-'")
    wrong = [rate for rate in settings.rates_hz if rate not in RATES_HZ]
    if wrong or not settings.rates_hz:
        raise InvalidInputError(
            f"HEAR's sample rates are {', '.join(map(str, RATES_HZ))}, got {wrong or 'none'}"
        )
    duration = settings.duration_s
    if isinstance(duration, str) and duration != "original":
        raise InvalidInputError(f"the duration is in seconds or 'original', got {duration!r}")
    if isinstance(duration, (int, float)) and not 0 < duration < float("inf"):
        raise InvalidInputError(f"the duration is to be positive, got {duration}")
    for name in settings.evaluation:
        if score_of_name(name).of_events != settings.events:
            raise InvalidInputError(f"the score {name} is of {'clips' if settings.events else 'events'}")


def _kind(clips: Sequence[SourceClip], settings: TaskSettings) -> str:
    """``"event"``, ``"multiclass"`` or ``"multilabel"``."""
    if settings.events:
        return "event"
    not_one = [clip for clip in clips if len(clip.labels) != 1]
    multilabel = bool(not_one) if settings.multilabel is None else settings.multilabel
    if not_one and not multilabel:
        raise InvalidInputError(
            f"{not_one[0].segment.file} has {len(not_one[0].labels)} labels; expected one"
        )
    return "multilabel" if multilabel else "multiclass"


class _Writer:
    def __init__(
        self,
        folder: Path,
        clips: Sequence[SourceClip],
        names: Sequence[str],
        splits: TaskSplits,
        kind: str,
        settings: TaskSettings,
    ) -> None:
        self.folder, self.settings, self.kind, self.splits = folder, settings, kind, splits
        self.clips, self.names = clips, names
        self.duration_s: float | None = None
        self.written: list[int] = []

    def write_audio(self, on_error: BadFile | None, on_progress: Progress | None) -> None:
        readable = self._readable(on_error)
        if self.settings.duration_s is None:
            self.duration_s = max(readable.values(), default=0.0)
        elif not isinstance(self.settings.duration_s, str):
            self.duration_s = float(self.settings.duration_s)
        for n_done, i in enumerate(readable, start=1):
            with self._told_of_bad(self.clips[i], on_error):
                self._write_clip(i)
                self.written.append(i)
            if on_progress:
                on_progress(f"writing {self.settings.name}", n_done, len(readable))

    def _readable(self, on_error: BadFile | None) -> dict[int, float]:
        """Durations in seconds of the clips that open."""
        durations = {}
        for i, clip in enumerate(self.clips):
            with self._told_of_bad(clip, on_error), _open(clip) as audio:
                durations[i] = audio.end_s - audio.start_s
        return durations

    @contextmanager
    def _told_of_bad(self, clip: SourceClip, on_error: BadFile | None) -> Iterator[None]:
        try:
            yield
        except AudioFileError as error:
            if on_error is None:
                raise
            on_error(clip, error)

    def _write_clip(self, i: int) -> None:
        for rate_hz in sorted(self.settings.rates_hz, reverse=True):
            with _open(self.clips[i]) as audio:
                samples = audio.read(rate_hz)
            if self.duration_s is not None:
                n_samples = round(self.duration_s * rate_hz)
                samples = np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples))))
            path = self.folder / str(rate_hz) / self.splits.of_clip[i] / self.names[i]
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.clip(samples, -1, 1), rate_hz, subtype="PCM_16")

    def write_texts(self, target: Path) -> WrittenTask:
        truth = self._truth()
        labels = in_order({label for of_split in truth.values() for label in _labels(of_split)})
        splits = list(truth) if self.splits.mode != "trainvaltest" else ["train", "valid", "test"]
        empty = [split for split in splits if not truth.get(split)]
        if empty or not labels:
            raise InvalidInputError(f"no clips are left for {', '.join(empty) or 'the labels'}")
        for split in splits:
            (self.folder / f"{split}.json").write_text(
                json.dumps(truth[split], indent=1) + "\n", encoding="utf-8"
            )
        with (self.folder / VOCABULARY_FILE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("idx", "label"), *enumerate(labels)])
        metadata = self._metadata(splits)
        (self.folder / METADATA_FILE).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
        counts = {split: len(truth[split]) for split in splits}
        return WrittenTask(target, counts, metadata, self.splits.words, _missing_labels(truth, labels))

    def _truth(self) -> dict[str, dict[str, list[Any]]]:
        truth: dict[str, dict[str, list[Any]]] = {}
        for i in sorted(self.written, key=lambda i: self.names[i]):
            clip = self.clips[i]
            values: list[Any] = list(clip.labels)
            if self.settings.events:
                values = [
                    {"label": event.label, "start": event.start_ms, "end": event.end_ms}
                    for event in _cut(clip.events, self.duration_s)
                ]
            truth.setdefault(self.splits.of_clip[i], {})[self.names[i]] = values
        return dict(sorted(truth.items()))

    def _metadata(self, splits: Sequence[str]) -> dict[str, Any]:
        """The fields of HEAR's preprocessing."""
        settings = self.settings
        limits: dict[str, Any] = {"max_task_duration_by_split": dict.fromkeys(splits)}
        if self.splits.mode != "trainvaltest":
            limits = {"nfolds": len(splits), "max_task_duration_by_fold": None}
        return {
            "task_name": settings.name,
            "version": settings.version,
            "embedding_type": "event" if settings.events else "scene",
            "prediction_type": "multiclass" if self.kind == "multiclass" else "multilabel",
            "split_mode": self.splits.mode,
            "sample_duration": self.duration_s,
            "evaluation": list(settings.evaluation or EVALUATION[self.kind]),
            "download_urls": [],
            "default_mode": MODE,
            **limits,
            "tmp_dir": "_workdir",
            "mode": MODE,
            "splits": list(splits),
        }


def _open(clip: SourceClip) -> AudioClip:
    return AudioClip(clip.segment.path, clip.segment.start_s, clip.segment.end_s)


def _cut(events: Sequence[Event], duration_s: float | None) -> list[Event]:
    """Events that begin within the clip, by their beginning; cut where it ends."""
    events = sorted(events, key=lambda event: (event.start_ms, event.end_ms, event.label))
    if duration_s is None:
        return events
    end_ms = duration_s * MS_PER_S
    return [event._replace(end_ms=min(event.end_ms, end_ms)) for event in events if event.start_ms < end_ms]


def _labels(truth: Mapping[str, Sequence[Any]]) -> set[str]:
    return {
        value["label"] if isinstance(value, dict) else value for values in truth.values() for value in values
    }


def _missing_labels(truth: Mapping[str, Mapping[str, Sequence[Any]]], labels: Sequence[str]) -> list[str]:
    notes = []
    for split, of_split in truth.items():
        missing = [label for label in labels if label not in _labels(of_split)]
        if missing:
            some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            notes.append(f"{split} has no clip of {some}: d' and AUC are not defined there")
    return notes
