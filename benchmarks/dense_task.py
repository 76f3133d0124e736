"""What dense frames cost in accuracy: which word is being said, frame by frame, in streams of words.

``python benchmarks/dense_task.py MANIFEST.csv WEIGHTS``, where the list has columns ``path`` (one-second
clips at 16 kHz, relative to the list), ``label`` and ``fold``; needs the ``dev`` extra. Twenty clips of a
fold make a stream; frames centred 300 to 700 ms into a word are classified by logistic regression, trained
on the other folds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serab_byols import get_timestamp_embeddings, load_model
from serab_byols.corpus.decoding import AudioClip

WORDS = 20
WORD_SAMPLES = 16000
HOP_MS = 50
FRAMES = range(300 // HOP_MS, 700 // HOP_MS + 1)
"""Of a word, those that hear most of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--task", help="rows of the list whose column 'task' has this value")
    parser.add_argument("--statistics", type=float, nargs=2, default=(-6.0, 5.0), metavar=("MEAN", "STD"))
    options = parser.parse_args()
    table = pd.read_csv(options.manifest)
    if options.task:
        table = table[table["task"] == options.task]
    table = table.sample(frac=1, random_state=0)
    model = load_model(options.weights, normalization=options.statistics)

    labels, folds = [], []
    features: dict[str, list[np.ndarray]] = {"exact": [], "dense": []}
    for fold, rows in table.groupby("fold"):
        for first in range(0, len(rows), WORDS):
            some = rows.iloc[first : first + WORDS]
            words = [AudioClip(options.manifest.parent / path).read(WORD_SAMPLES) for path in some["path"]]
            stream = torch.from_numpy(np.concatenate([word[:WORD_SAMPLES] for word in words]))[None]
            picked = [word * 1000 // HOP_MS + frame for word in range(len(some)) for frame in FRAMES]
            for mode, parts in features.items():
                frames, _ = get_timestamp_embeddings(stream, model, 1000, HOP_MS, dense=mode == "dense")
                parts.append(frames[0][picked].numpy())
            labels += np.repeat(some["label"], len(FRAMES)).tolist()
            folds += [fold] * len(picked)
    report(
        {mode: np.concatenate(parts) for mode, parts in features.items()}, np.array(labels), np.array(folds)
    )


def report(features: dict[str, np.ndarray], labels: np.ndarray, folds: np.ndarray) -> None:
    """Accuracy over the folds, trained and tested on either kind of frames."""
    for trained, tested in (("exact", "exact"), ("dense", "dense"), ("exact", "dense")):
        scores = []
        for fold in np.unique(folds):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
            probe.fit(features[trained][folds != fold], labels[folds != fold])
            scores.append(probe.score(features[tested][folds == fold], labels[folds == fold]))
        each = ", ".join(f"{score:.3f}" for score in scores)
        print(f"trained on {trained}, tested on {tested}: {np.mean(scores):.3f} ({each})")


if __name__ == "__main__":
    main()
