"""A HEAR task of events with exactly known onsets: soundscapes composed of labelled clips.

``python benchmarks/soundscapes.py MANIFEST.csv -o TASKS``, where the list has columns ``path``, ``label``
and, if there are, ``fold`` or ``split`` and ``group``, as for ``serab-byols hear make-task``. Each
soundscape is faint noise with clips at random times and levels; a clip's silent edges are cut off first.
No clip is in two splits.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from serab_byols.corpus.decoding import AudioClip
from serab_byols.hear_benchmark.event_scores import MS_PER_S, Event
from serab_byols.hear_benchmark.task_manifest import SourceClip, read_task_manifest
from serab_byols.hear_benchmark.task_splits import split_clips
from serab_byols.hear_benchmark.task_writing import TaskSettings, WrittenTask, write_task

SAMPLE_RATE_HZ = 16000
LEVELS_DB = (-12.0, 0.0)
"""Of a clip's peak, uniform."""

PEAK = 0.5
BACKGROUND_DB = -50.0
EDGE_DB = -30.0
"""What is fainter than that below a clip's loudest 10 ms, at its beginning and end, is cut off."""

BLOCK_SAMPLES = SAMPLE_RATE_HZ // 100
FADE_SAMPLES = BLOCK_SAMPLES // 2


@dataclass(frozen=True)
class Composition:
    """What soundscapes are like.

    Attributes:
        n_soundscapes: in each split.
        duration_s: of each.
        n_events: in each; more than two at a time are avoided.
        max_event_s: longer clips are cut.
        seed: of everything.
    """

    n_soundscapes: Mapping[str, int]
    duration_s: float = 20.0
    n_events: int = 10
    max_event_s: float = 2.0
    seed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="TASKS")
    parser.add_argument("--name", default="soundscapes")
    parser.add_argument("--task", help="rows of the list whose column 'task' has this value")
    parser.add_argument(
        "--soundscapes", type=int, nargs=3, default=(60, 15, 25), metavar=("TRAIN", "VALID", "TEST")
    )
    parser.add_argument("--duration", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--events", type=int, default=10, metavar="N", help="in a soundscape")
    parser.add_argument("--rate", type=int, action="append", metavar="HZ")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = dict(zip(("train", "valid", "test"), options.soundscapes))
    composition = Composition(counts, options.duration, options.events, seed=options.seed)
    clips = read_task_manifest(options.manifest, only_task=options.task)
    task = make_soundscape_task(clips, options.output, options.name, composition, options.rate or [48000])
    print(task.folder, task.n_files)


def make_soundscape_task(
    clips: Sequence[SourceClip],
    folder: Path,
    name: str,
    composition: Composition,
    rates_hz: Sequence[int] = (48000,),
) -> WrittenTask:
    """Compose soundscapes and write them as a task, by the code of ``hear make-task``."""
    rng = np.random.default_rng(composition.seed)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [("path", "label", "start", "end", "split")]
        for split, sources in _by_split(clips, composition.seed).items():
            sounds = {label: [_trimmed(clip) for clip in some] for label, some in sources.items()}
            for i in range(composition.n_soundscapes[split]):
                samples, events = compose(sounds, composition, rng)
                file = f"{split}{i:04d}.wav"
                soundfile.write(Path(scratch) / file, samples, SAMPLE_RATE_HZ)
                rows += [
                    (file, e.label, f"{e.start_ms / MS_PER_S!r}", f"{e.end_ms / MS_PER_S!r}", split)
                    for e in events
                ]
        manifest = Path(scratch) / "soundscapes.csv"
        with manifest.open("w", newline="", encoding="utf-8") as file_of_rows:
            csv.writer(file_of_rows).writerows(rows)
        settings = TaskSettings(
            name=name, events=True, duration_s=composition.duration_s, rates_hz=tuple(rates_hz)
        )
        return write_task(read_task_manifest(manifest, events=True), folder, settings)


def compose(
    sounds: Mapping[str, Sequence[np.ndarray]], composition: Composition, rng: np.random.Generator
) -> tuple[np.ndarray, list[Event]]:
    """One soundscape, float32 (n_samples,), and what happens in it."""
    n_samples = round(composition.duration_s * SAMPLE_RATE_HZ)
    scape = rng.standard_normal(n_samples) * 10 ** (BACKGROUND_DB / 20)
    n_at_a_time = np.zeros(n_samples, dtype=int)
    events = []
    labels = sorted(sounds)
    for _ in range(composition.n_events):
        label = labels[rng.integers(len(labels))]
        sound = sounds[label][int(rng.integers(len(sounds[label])))]
        sound = sound[: round(composition.max_event_s * SAMPLE_RATE_HZ)][:n_samples]
        places = rng.integers(0, n_samples - len(sound) + 1, size=20)
        first = next((p for p in places if n_at_a_time[p : p + len(sound)].max() < 2), places[0])
        last = first + len(sound)
        scape[first:last] += sound * PEAK * 10 ** (rng.uniform(*LEVELS_DB) / 20)
        n_at_a_time[first:last] += 1
        per_ms = SAMPLE_RATE_HZ / MS_PER_S
        events.append(Event(label, float(first / per_ms), float(last / per_ms)))
    return np.clip(scape, -1, 1).astype(np.float32), sorted(events, key=lambda event: event.start_ms)


def _by_split(clips: Sequence[SourceClip], seed: int) -> dict[str, dict[str, list[SourceClip]]]:
    """Clips by split and label; of folds the first tests, the second validates."""
    splits = split_clips(clips, [set(clip.labels) for clip in clips], None, seed)
    names = {"fold00": "test", "fold01": "valid"} if splits.mode != "trainvaltest" else {}
    result: dict[str, dict[str, list[SourceClip]]] = {"train": {}, "valid": {}, "test": {}}
    for clip, split in zip(clips, splits.of_clip):
        part = names.get(split, "train" if split.startswith("fold") else split)
        result[part].setdefault(clip.labels[0], []).append(clip)
    return result


def _trimmed(clip: SourceClip) -> np.ndarray:
    """The clip without silent edges, its peak at 1, a few milliseconds faded in and out."""
    with AudioClip(clip.segment.path, clip.segment.start_s, clip.segment.end_s) as audio:
        samples = audio.read(SAMPLE_RATE_HZ)
    blocks = np.pad(samples, (0, -len(samples) % BLOCK_SAMPLES)).reshape(-1, BLOCK_SAMPLES)
    loudness = np.sqrt((blocks**2).mean(axis=1))
    loud = np.flatnonzero(loudness >= loudness.max() * 10 ** (EDGE_DB / 20))
    samples = samples[loud[0] * BLOCK_SAMPLES : (loud[-1] + 1) * BLOCK_SAMPLES].copy()
    n_fade = min(FADE_SAMPLES, len(samples) // 2)
    ramp = np.linspace(0, 1, n_fade, endpoint=False)
    samples[:n_fade] *= ramp
    samples[len(samples) - n_fade :] *= ramp[::-1]
    return samples / max(float(np.abs(samples).max()), 1e-6)


if __name__ == "__main__":
    main()
