"""What dense frames cost in accuracy: which word is being said, frame by frame, in streams of words.

``python benchmarks/dense_task.py MANIFEST.csv WEIGHTS``, where the list has columns ``path`` (one-second
clips at 16 kHz, relative to the list), ``label`` and ``fold``; needs the ``bench`` extra. Twenty clips of a
fold make a stream; frames centred 300 to 700 ms into a word are classified by logistic regression, trained
on the other folds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from serab_byols import ByolsModel, get_timestamp_embeddings, load_model
from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.segments import Segment
from serab_byols.probe.manifest import Task, in_order, read_manifest

WORDS = 20
WORD_SAMPLES = 16000
HOP_MS = 50
FRAMES = range(300 // HOP_MS, 700 // HOP_MS + 1)
"""Of a word, those that hear most of it."""


class Word(NamedTuple):
    """A word of a stream."""

    segment: Segment
    label: str
    fold: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--task", help="rows of the list whose column 'task' has this value")
    parser.add_argument("--statistics", type=float, nargs=2, default=(-6.0, 5.0), metavar=("MEAN", "STD"))
    options = parser.parse_args()
    (task,) = read_manifest(options.manifest, [options.task] if options.task else [])
    model = load_model(options.weights, normalization=options.statistics)
    streams = streams_of_words(task)
    features = {mode: frames_of_words(streams, model, dense=mode == "dense") for mode in ("exact", "dense")}
    for trained, tested in (("exact", "exact"), ("dense", "dense"), ("exact", "dense")):
        scores = accuracies(features[trained], features[tested], streams)
        each = ", ".join(f"{score:.3f}" for score in scores)
        print(f"trained on {trained}, tested on {tested}: {np.mean(scores):.3f} ({each})")


def streams_of_words(task: Task) -> list[list[Word]]:
    """Up to twenty words of a fold in each stream; shuffled, the same way every time."""
    words = [Word(*word) for word in zip(task.segments, task.labels, task.columns["fold"])]
    words = [words[i] for i in np.random.RandomState(0).permutation(len(words))]
    streams = []
    for fold in in_order(task.columns["fold"]):
        of_fold = [word for word in words if word.fold == fold]
        streams += [of_fold[first : first + WORDS] for first in range(0, len(of_fold), WORDS)]
    return streams


def frames_of_words(
    streams: Sequence[Sequence[Word]], model: ByolsModel, frame_ms: float = 1000, *, dense: bool = False
) -> np.ndarray:
    """Embeddings (n_words * len(FRAMES), D) of the frames in the middle of the words, stream by stream."""
    features = []
    for words in streams:
        samples = [_second(word.segment) for word in words]
        stream = torch.from_numpy(np.concatenate(samples))[None]
        picked = [i * 1000 // HOP_MS + frame for i in range(len(words)) for frame in FRAMES]
        frames, _ = get_timestamp_embeddings(stream, model, frame_ms, HOP_MS, dense=dense)
        features.append(frames[0][picked].numpy())
    return np.concatenate(features)


def _second(segment: Segment) -> np.ndarray:
    """The first second of a word (16000,), filled up with zeros."""
    with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
        samples = clip.read(WORD_SAMPLES)[:WORD_SAMPLES]
    return np.pad(samples, (0, WORD_SAMPLES - len(samples)))


def accuracies(trained: np.ndarray, tested: np.ndarray, streams: Sequence[Sequence[Word]]) -> list[float]:
    """Of each fold, by a classifier trained on frames of the others; both arrays have the same rows."""
    words = [word for stream in streams for word in stream]
    labels = np.repeat([word.label for word in words], len(FRAMES))
    folds = np.repeat([word.fold for word in words], len(FRAMES))
    scores = []
    for fold in np.unique(folds):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        with threadpool_limits(limits=1):  # the products are small
            probe.fit(trained[folds != fold], labels[folds != fold])
            scores.append(float(probe.score(tested[folds == fold], labels[folds == fold])))
    return scores


if __name__ == "__main__":
    main()
