"""Tiny HEAR tasks of every kind, and a module of the common API that is quick to run."""

import csv
import json

import numpy as np
import soundfile

RATE_HZ = 16000
TONES_HZ = {"high": 3000.0, "low": 300.0, "middle": 1500.0}

_TRAINING = {"max_epochs": [30], "patience": [2, 5], "batch_size": [20], "lr": [3e-3, 1e-3]}
_GOLDEN = {"noise": 0.05, "evaluation_params": {"task_specific_param_grid": _TRAINING}}
GOLDEN_TASKS = {
    "folds": (
        "multiclass",
        {
            **_GOLDEN,
            "splits": {"fold00": 33, "fold01": 30, "fold02": 36},
            "duration_s": 0.2,
            "noise": 0.05,
            "seed": 1,
            "evaluation_params": {"task_specific_param_grid": {**_TRAINING, "lr": [1e-2, 3e-3]}},
        },
    ),
    "labels": (
        "multilabel",
        {**_GOLDEN, "splits": {"train": 48, "valid": 24, "test": 32}, "duration_s": 0.2, "seed": 2},
    ),
    "events": (
        "event",
        {**_GOLDEN, "splits": {"train": 10, "valid": 4, "test": 6}, "duration_s": 4.0, "seed": 3},
    ),
}
"""For which golden/heareval.json has what HEAR's own kit makes of them: kind and arguments of a folder."""

MODULE = '''
"""A module of the HEAR common API: energies of bands of the spectrum."""

import torch

N_BANDS, FRAME, HOP_MS = 8, 1600, 100.0


class Model(torch.nn.Module):
    sample_rate = {rate}
    scene_embedding_size = timestamp_embedding_size = N_BANDS

    def __init__(self, offset):
        super().__init__()
        self.offset = offset


def load_model(model_file_path="", offset=0.0):
    return Model(offset)


def bands(audio, model):
    power = torch.fft.rfft(audio).abs()[..., 1:]
    n = power.shape[-1] // N_BANDS
    means = power[..., : n * N_BANDS].reshape(*power.shape[:-1], N_BANDS, n).mean(-1)
    return torch.log(means + 1e-3) + model.offset


def get_scene_embeddings(audio, model):
    return bands(audio, model)


def get_timestamp_embeddings(audio, model):
    hop = round(HOP_MS * model.sample_rate / 1000)
    padded = torch.nn.functional.pad(audio, (FRAME // 2, FRAME // 2))
    embeddings = bands(padded.unfold(1, FRAME, hop), model)
    timestamps = torch.arange(embeddings.shape[1], dtype=torch.float32) * HOP_MS
    return embeddings, timestamps.expand(len(audio), -1)
'''


def write_module(folder, name="bandmodule", rate_hz=RATE_HZ, extra=""):
    (folder / f"{name}.py").write_text(MODULE.replace("{rate}", str(rate_hz)) + extra)


def tone(rng, label, duration_s, rate_hz=RATE_HZ, noise=0.01):
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    pitch_hz = TONES_HZ[label] * rng.uniform(0.8, 1.25)
    return 0.3 * np.sin(2 * np.pi * pitch_hz * time_s) + noise * rng.standard_normal(len(time_s))


def task_folder(root, kind, splits, rate_hz=RATE_HZ, duration_s=0.5, noise=0.01, seed=0, **metadata):
    """A task of tones, as HEAR's preprocessing would write it.

    ``kind`` is ``"multiclass"``, ``"multilabel"`` or ``"event"``; ``splits`` are names and numbers of files.
    """
    rng = np.random.default_rng(seed)
    folder = root / f"tones_{kind}-v1-full"
    for split, n_files in splits.items():
        audio_folder = folder / str(rate_hz) / split
        audio_folder.mkdir(parents=True)
        truth = {}
        for i in range(n_files):
            audio, truth[f"{split}_{i}.wav"] = _file(rng, kind, i, duration_s, rate_hz, noise)
            soundfile.write(audio_folder / f"{split}_{i}.wav", audio, rate_hz)
        (folder / f"{split}.json").write_text(json.dumps(truth, indent=True))
    rows = [("idx", "label"), *enumerate(sorted(TONES_HZ))]
    with (folder / "labelvocabulary.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    scores = {
        "multiclass": ["top1_acc", "mAP", "d_prime", "aucroc"],
        "multilabel": ["mAP", "top1_acc"],
        "event": ["event_onset_200ms_fms", "segment_1s_er"],
    }
    content = {
        "task_name": f"tones_{kind}",
        "version": "v1",
        "embedding_type": "event" if kind == "event" else "scene",
        "prediction_type": "multiclass" if kind == "multiclass" else "multilabel",
        "split_mode": "trainvaltest" if "train" in splits else "presplit_kfold",
        "sample_duration": duration_s,
        "evaluation": scores[kind],
        "mode": "full",
        "splits": list(splits),
        **metadata,
    }
    (folder / "task_metadata.json").write_text(json.dumps(content, indent=True))
    return folder


def _file(rng, kind, i, duration_s, rate_hz, noise):
    labels = sorted(TONES_HZ)
    if kind == "multiclass":
        return tone(rng, labels[i % 3], duration_s, rate_hz, noise), [labels[i % 3]]
    if kind == "multilabel":
        chosen = [label for k, label in enumerate(labels) if (i + 1) >> k & 1]
        silence = noise * rng.standard_normal(round(duration_s * rate_hz))
        return sum((tone(rng, label, duration_s, rate_hz) for label in chosen), silence), chosen
    audio = noise * rng.standard_normal(round(duration_s * rate_hz))
    events = []
    for first_s in np.arange(0.2, duration_s - 0.6, 1.0):
        label = labels[rng.integers(3)]
        start_s = first_s + rng.uniform(0, 0.2)
        first = round(start_s * rate_hz)
        sound = tone(rng, label, 0.5, rate_hz)
        audio[first : first + len(sound)] += sound
        events.append({"label": label, "start": start_s * 1000, "end": (start_s + 0.5) * 1000})
    return audio, events
