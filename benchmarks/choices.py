"""What the choices cost in accuracy: weights, normalisation, frames, dense frames, precision.

``python benchmarks/choices.py`` measures on the labelled clips beside the repository (or those of ``--task``)
and writes the tables of docs/choices.md. Results are kept in the folder of the run, so that a killed run goes
on and new weights cost only their own rows. Nothing is timed: what else the machine does changes no number.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from dense_task import accuracies, frames_of_words, streams_of_words
from generated_page import markdown_table, provenance, write_part
from labelled_tasks import (
    ROOT,
    LabelledTasks,
    add_model_option,
    add_task_option,
    named_weights,
    read_tasks,
    score_cells,
)
from measure import machine, relative_difference
from soundscapes import Composition, make_soundscape_task

from serab_byols import ByolsModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from serab_byols.atomic_write import atomic_write
from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.provenance import describe_model
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS
from serab_byols.hear_benchmark.embedding_module import HearModule
from serab_byols.hear_benchmark.task_evaluation import Protocol, evaluate_tasks
from serab_byols.hear_benchmark.task_folder import HearTask, read_task
from serab_byols.hear_benchmark.task_manifest import SourceClip
from serab_byols.hear_benchmark.task_writing import TaskSettings, write_task
from serab_byols.probe.features import FeatureExtractor, architecture, log_mel_features, random_features
from serab_byols.probe.manifest import Task, in_order

Value = TypeVar("Value")

CLIPS_OF_A_CALL = 64
"""Whose statistics are shared under the rule ``"batch"``."""

FIXED = (-6.0, 5.0)
RULES: tuple[Any, ...] = ("auto", "clip", "batch", "hear2021", FIXED)

HEAR_GRID = "fast"
EVENT_LABELS = 8
EVENT_SEEDS = (42, 43, 44)
SOUNDSCAPES = Composition({"train": 60, "valid": 15, "test": 45}, duration_s=12, n_events=6)
EVENT_GRID = {
    "hidden_layers": [1],
    "hidden_dim": [128],
    "max_epochs": [100],
    "check_val_every_n_epoch": [5],
    "patience": [4],
}
"""Of the predictors of events; learning rates and initialisations are HEAR's."""


@dataclass(frozen=True)
class Frames:
    """How timestamps are embedded."""

    frame_ms: float = FRAME_DURATION_MS
    hop_ms: float = HOP_SIZE_MS
    dense: bool = False

    @property
    def is_usual(self) -> bool:
        """Whether the frames are the usual ones, a second every 50 ms, exact."""
        return self == Frames()


FRAMES = (
    *(Frames(frame_ms) for frame_ms in (250.0, 500.0, 1000.0, 2000.0)),
    *(Frames(hop_ms=hop_ms) for hop_ms in (100.0, 200.0)),
    Frames(dense=True),
)


@dataclass(frozen=True)
class Choice:
    """A model and how it is used.

    Attributes:
        name: of the weights.
        path: of them, or their name.
        normalization: as ``load_model`` takes it.
        dtype: of the encoder.
    """

    name: str
    path: str
    normalization: Any = "auto"
    dtype: str = "float32"

    def model(self) -> ByolsModel:
        """Loaded as chosen."""
        return load_model(self.path, normalization=self.normalization).to(getattr(torch, self.dtype))


class Benchmark:
    """Measurements that are made when they are wanted, and kept.

    Args:
        labelled: the clips.
        spoken: name of the task that streams and soundscapes are made of.
        folder: of the run.
    """

    def __init__(self, labelled: LabelledTasks, spoken: str, folder: Path) -> None:
        self.labelled = labelled
        self.folder = folder
        by_name = {task.name: task for task in labelled.tasks}
        if spoken not in by_name:
            raise InvalidInputError(
                f"there is no task {spoken!r} to speak words; there are {', '.join(by_name)}"
            )
        self.spoken = by_name[spoken]
        self._path = folder / "results.json"
        self._results: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.is_file():
            self._results = json.loads(self._path.read_text(encoding="utf-8"))

    def _kept(self, compute: Callable[[], Value], *key: Any) -> Value:
        text = json.dumps([self.labelled.digest()[:16], self.spoken.name, *key])
        if text not in self._results:
            print(f"... {json.dumps(key)}", file=sys.stderr, flush=True)
            self._results[text] = compute()
            with atomic_write(self._path) as scratch:
                scratch.write_text(json.dumps(self._results, indent=1) + "\n", encoding="utf-8")
        value: Value = self._results[text]
        return value

    def clips(self, choice: Choice, frames: Frames | None = None) -> dict[str, dict[str, float]]:
        """Scores of the tasks: by scene embeddings, or by the mean over frames."""
        key = ("clips", _key(choice), None if frames is None else asdict(frames))
        return self._kept(lambda: self.labelled.scores(self._vectors(choice.model(), frames)), *key)

    def _vectors(self, model: ByolsModel, frames: Frames | None) -> np.ndarray:
        """Of all clips (n, D), those of a task some at a time."""
        table: dict[Segment, np.ndarray] = {}
        for task in self.labelled.tasks:
            for first in range(0, len(task.segments), CLIPS_OF_A_CALL):
                segments = task.segments[first : first + CLIPS_OF_A_CALL]
                table |= zip(segments, _embedded([_samples(s) for s in segments], model, frames))
        return np.stack([table[segment] for segment in self.labelled.segments])

    def baseline(self, features: FeatureExtractor) -> dict[str, dict[str, float]]:
        """Scores of the tasks by other features."""

        def compute() -> dict[str, dict[str, float]]:
            vectors = dict(features.extract(self.labelled.segments, _raise))
            return self.labelled.scores(np.stack([vectors[i] for i in range(len(self.labelled.segments))]))

        return self._kept(compute, "baseline", features.name, features.description)

    def difference(self, choice: Choice, other: Choice) -> float:
        """The largest difference of embeddings, of the largest value."""

        def compute() -> float:
            vectors = (self._vectors(c.model(), None) for c in (other, choice))
            return relative_difference(*map(torch.from_numpy, vectors))

        return self._kept(compute, "difference", _key(choice), _key(other))

    def words(self, choice: Choice, frames: Frames) -> float:
        """Accuracy of frames in streams of words, mean over folds."""

        def compute() -> float:
            streams = streams_of_words(self.spoken)
            vectors = frames_of_words(streams, choice.model(), frames.frame_ms, dense=frames.dense)
            return statistics.fmean(accuracies(vectors, vectors, streams))

        return self._kept(compute, "words", _key(choice), {**asdict(frames), "hop_ms": None})

    def events(self, choice: Choice, frames: Frames) -> list[float]:
        """F-measure of onsets in soundscapes, for each seed of the predictors."""

        def compute() -> list[float]:
            options = {
                "normalization": choice.normalization,
                "dtype": choice.dtype,
                "frame_duration": frames.frame_ms,
                "hop_size": frames.hop_ms,
                "dense": frames.dense,
            }
            module = HearModule("timestamp_options", choice.path, options)
            task = replace(read_task(self._soundscapes()), task_grid=EVENT_GRID)
            return [result for seed in EVENT_SEEDS for result in self._evaluated(module, [task], seed, 4)]

        settings = [asdict(SOUNDSCAPES), EVENT_GRID, EVENT_SEEDS]
        return self._kept(compute, "events", _key(choice), asdict(frames), settings)

    def hear(self, choice: Choice) -> dict[str, float]:
        """Accuracy of the tasks by HEAR's protocol."""

        def compute() -> dict[str, float]:
            module = HearModule("serab_byols", choice.path, {"normalization": choice.normalization})
            tasks = [read_task(self._hear_task(task)) for task in self.labelled.tasks]
            scores = self._evaluated(module, tasks, 42, 8, HEAR_GRID)
            return dict(zip([task.name for task in self.labelled.tasks], scores))

        return self._kept(compute, "hear", _key(choice), HEAR_GRID)

    def _evaluated(
        self, module: HearModule, tasks: list[HearTask], seed: int, n_points: int, grid: str = "faster"
    ) -> list[float]:
        """Primary scores; embeddings stay in the scratch folder for the next seed."""
        out, kept = self.folder / "evaluation", self.folder / "embeddings"
        shutil.rmtree(out, ignore_errors=True)
        if seed != EVENT_SEEDS[0] and kept.exists():
            shutil.copytree(kept, out / tasks[0].name / "embeddings")
        results = evaluate_tasks(module, tasks, out, Protocol(grid, n_points, seed))
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(out / tasks[0].name / "embeddings", kept)
        return [result.primary_score for result in results]

    def _soundscapes(self) -> Path:
        labels = in_order(self.spoken.labels)[:EVENT_LABELS]
        clips = [clip for clip in _source_clips(self.spoken) if clip.labels[0] in labels]
        return self._made(
            "soundscapes",
            lambda folder: make_soundscape_task(clips, folder, "soundscapes", SOUNDSCAPES, [16000]).folder,
        )

    def _hear_task(self, task: Task) -> Path:
        settings = TaskSettings(name=task.name, rates_hz=(16000,))
        return self._made(task.name, lambda folder: write_task(_source_clips(task), folder, settings).folder)

    def _made(self, name: str, make: Callable[[Path], Path]) -> Path:
        """The folder of a task, made once for these clips."""
        tasks = self.folder / f"tasks-{self.labelled.digest()[:12]}"
        target = tasks / f"{name}-v1-full"
        return target if target.exists() else make(tasks)


def _key(choice: Choice) -> list[Any]:
    facts = describe_model(choice.model())
    return [facts["weights_sha256"][:16], facts["normalization"], choice.dtype]


def _samples(segment: Segment) -> np.ndarray:
    with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
        return clip.read(16000)


def _embedded(clips: list[np.ndarray], model: ByolsModel, frames: Frames | None) -> Iterator[np.ndarray]:
    """A vector (D,) a clip."""
    if frames is None:
        yield from get_scene_embeddings(clips, model).numpy()
    else:
        of_clips, _ = get_timestamp_embeddings(
            clips, model, frames.frame_ms, frames.hop_ms, dense=frames.dense
        )
        yield from (embeddings.mean(dim=0).numpy() for embeddings in of_clips)


def _source_clips(task: Task) -> list[SourceClip]:
    columns = [{name: values[i] for name, values in task.columns.items()} for i in range(len(task.labels))]
    for of_clip in columns:
        if "fold" in of_clip:
            of_clip.pop("split", None)
    clips = zip(task.segments, task.labels, columns)
    return [SourceClip(segment, [label], columns=of_clip) for segment, label, of_clip in clips]


def _raise(_: Segment, error: Exception) -> None:
    raise error


# ---- Tables ----------------------------------------------------------------------------------------


def weights_table(benchmark: Benchmark, choices: Sequence[Choice]) -> str:
    """The weights at hand, and what needs none."""
    tasks = [task.name for task in benchmark.labelled.tasks]
    rows = []
    models = []
    for choice in choices:
        model = choice.model()
        models.append(model)
        words, events = benchmark.words(choice, Frames()), benchmark.events(choice, Frames())
        cells = score_cells(benchmark.clips(choice), tasks)
        rows.append([choice.name, architecture(model), *cells, f"{words:.3f}", _mean(events)])
    rows += [
        [features.name, "", *score_cells(benchmark.baseline(features), tasks), "", ""]
        for features in [*random_features(models), log_mel_features()]
    ]
    return markdown_table(["weights", "encoder", *tasks, "words", "events"], rows)


def hear_table(benchmark: Benchmark, choices: Sequence[Choice]) -> str:
    """HEAR's protocol on the same clips."""
    tasks = [task.name for task in benchmark.labelled.tasks]
    scores = [benchmark.hear(choice) for choice in choices]
    rows = [
        [choice.name, *(f"{of_choice[t]:.3f}" for t in tasks)] for choice, of_choice in zip(choices, scores)
    ]
    return markdown_table(["weights", *tasks], rows)


def normalization_table(benchmark: Benchmark, choices: Sequence[Choice]) -> str:
    """Rules by weights; timestamps of the first ones alone."""
    tasks = [task.name for task in benchmark.labelled.tasks]
    rows = []
    for choice in choices:
        for rule in RULES:
            chosen = replace(choice, normalization=rule)
            words = events = ""
            if choice is choices[0]:
                words = f"{benchmark.words(chosen, Frames()):.3f}"
                events = _mean(benchmark.events(chosen, Frames()))
            of_scenes = (
                replace(chosen, normalization="batch") if rule == "hear2021" else chosen
            )  # the same there
            cells = score_cells(benchmark.clips(of_scenes), tasks)
            rows.append([choice.name, _rule(chosen), *cells, words, events])
    return markdown_table(["weights", "normalisation", *tasks, "words", "events"], rows)


def _rule(choice: Choice) -> str:
    """``auto`` with what it stands for."""
    if choice.normalization != "auto":
        return f"`{_plain(choice.normalization)}`"
    return f"`auto`: {_plain(choice.model().resolved_normalization)}"


def _plain(rule: Any) -> str:
    return rule if isinstance(rule, str) else f"({rule[0]:.3g}, {rule[1]:.3g})"


def frames_table(benchmark: Benchmark, choices: Sequence[Choice]) -> str:
    """Frame length, hop and dense frames, by the first weights."""
    choice, tasks = choices[0], [task.name for task in benchmark.labelled.tasks]
    rows = [
        ["scene embedding", "", "", *score_cells(benchmark.clips(choice), tasks), "", ""],
    ]
    for frames in FRAMES:
        has_usual_hop = frames.hop_ms == HOP_SIZE_MS
        words = f"{benchmark.words(choice, frames):.3f}" if has_usual_hop else ""
        clips = benchmark.clips(choice, frames) if has_usual_hop else None
        kind = "dense" if frames.dense else "exact"
        events = _mean(benchmark.events(choice, frames))
        cells = [kind, f"{frames.frame_ms:g}", f"{frames.hop_ms:g}", *score_cells(clips, tasks)]
        rows.append([*cells, words, events])
    return markdown_table(["frames", "length ms", "hop ms", *tasks, "words", "events"], rows)


def precision_table(benchmark: Benchmark, choices: Sequence[Choice]) -> str:
    """float32 against bfloat16."""
    tasks = [task.name for task in benchmark.labelled.tasks]
    rows = []
    for choice in choices:
        for dtype in ("float32", "bfloat16"):
            chosen = replace(choice, dtype=dtype)
            words = events = difference = ""
            if dtype != choice.dtype:
                difference = f"{benchmark.difference(chosen, choice):.3f}"
            if choice is choices[0]:
                words = f"{benchmark.words(chosen, Frames()):.3f}"
                events = _mean(benchmark.events(chosen, Frames()))
            cells = score_cells(benchmark.clips(chosen), tasks)
            rows.append([choice.name, dtype, *cells, words, events, difference])
    return markdown_table(["weights", "dtype", *tasks, "words", "events", "largest difference"], rows)


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


TABLES = {
    "weights": weights_table,
    "normalisation": normalization_table,
    "frames": frames_table,
    "precision": precision_table,
    "hear": hear_table,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_task_option(parser)
    parser.add_argument(
        "--spoken",
        metavar="NAME",
        default="arabic_kws20",
        help="the task of one-second words that streams and soundscapes are made of (default: %(default)s)",
    )
    add_model_option(parser)
    parser.add_argument("--run", type=Path, default=Path("choices-run"), metavar="FOLDER")
    parser.add_argument("--only", choices=list(TABLES), action="append", help="this table; may be repeated")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "choices.md", metavar="FILE")
    options = parser.parse_args(arguments)
    benchmark = Benchmark(read_tasks(options.task), options.spoken, options.run)
    choices = [Choice(name, path) for name, path in named_weights(options.model).items()]
    for name in options.only or TABLES:
        table = TABLES[name](benchmark, choices)
        print(table, flush=True)
        write_part(options.page, name, table)
    command = ["benchmarks/choices.py", *(f"--model={Path(name).name}" for name in options.model)]
    write_part(options.page, "run", f"Tables by {provenance(command, machine(torch.device('cpu')))}")


if __name__ == "__main__":
    main()
