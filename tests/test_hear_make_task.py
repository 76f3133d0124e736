"""``serab-byols hear make-task``: manifests of clips and events as task folders that HEAR's kit can read."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hear_task_makers import TONES_HZ, tone, write_module
from parity_data import ROOT

from serab_byols.cli import main
from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.hear_benchmark.event_scores import Event
from serab_byols.hear_benchmark.task_folder import read_task
from serab_byols.hear_benchmark.task_manifest import SourceClip, check_labels, read_task_manifest
from serab_byols.hear_benchmark.task_splits import split_clips
from serab_byols.hear_benchmark.task_writing import TaskSettings, write_task

RATE_HZ = 16000


def write_csv(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def clips(tmp_path):
    """Thirty clips of three labels, of 0.4 to 0.5 s, in a folder."""
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    labels = sorted(TONES_HZ)
    names = []
    for i in range(30):
        names.append((f"clips/{i}.flac", labels[i % 3]))
        soundfile.write(tmp_path / names[-1][0], tone(rng, labels[i % 3], 0.4 + 0.1 * (i == 0)), RATE_HZ)
    return names


def made(tmp_path, *options, status=0):
    arguments = [
        "hear",
        "make-task",
        str(tmp_path / "list.csv"),
        "-o",
        str(tmp_path / "tasks"),
        "--name",
        "tones",
    ]
    assert main([*arguments, *options]) == status
    return tmp_path / "tasks" / "tones-v1-full"


def test_a_task_of_clips(tmp_path, clips, capsys):
    write_csv(tmp_path / "list.csv", ["path", "label"], clips)
    folder = made(tmp_path)
    assert "multiclass scene task, 0.5 s: train 24, valid 3, test 3" in capsys.readouterr().out
    metadata = json.loads((folder / "task_metadata.json").read_text())
    assert metadata == {
        "task_name": "tones",
        "version": "v1",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "trainvaltest",
        "sample_duration": 0.5,
        "evaluation": ["top1_acc", "mAP", "d_prime", "aucroc"],
        "download_urls": [],
        "default_mode": "full",
        "max_task_duration_by_split": {"train": None, "valid": None, "test": None},
        "tmp_dir": "_workdir",
        "mode": "full",
        "splits": ["train", "valid", "test"],
    }
    assert (folder / "labelvocabulary.csv").read_text() == "idx,label\n0,high\n1,low\n2,middle\n"
    task = read_task(folder)
    truth = dict(clips)
    for split in task.splits:
        assert set(Counter(label for (label,) in task.truth[split].values())) == set(TONES_HZ)
        for file, labels in task.truth[split].items():
            assert labels == (truth[f"clips/{Path(file).stem}.flac"],)
            info = soundfile.info(folder / "48000" / split / file)
            assert (info.samplerate, info.frames, info.channels, info.subtype) == (48000, 24000, 1, "PCM_16")
    assert sum(len(task.truth[split]) for split in task.splits) == 30
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["tones-v1-full"]


def test_audio_is_cut_or_filled_at_the_end(tmp_path):
    samples = np.linspace(-0.9, 0.9, 8000)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, -samples / 3], axis=1), RATE_HZ, subtype="FLOAT")
    rows = [("a.wav", "x", split) for split in ("train",)]
    for name in ("valid", "test"):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ)
        rows.append((f"{name}.wav", "x", name))
    clips = read_task_manifest(write_csv(tmp_path / "list.csv", ["path", "label", "split"], rows))
    for duration_s, n_samples in ((0.25, 4000), (1.0, 16000)):
        settings = TaskSettings("tones", f"v{n_samples}", duration_s=duration_s, rates_hz=(RATE_HZ, 32000))
        folder = write_task(clips, tmp_path / "tasks", settings).folder
        audio, _ = soundfile.read(folder / "16000" / "train" / "a.wav")
        assert len(audio) == n_samples
        mono = samples / 3  # the mean of both channels
        n = min(n_samples, 8000)
        np.testing.assert_allclose(audio[:n], mono[:n], atol=1e-4)
        assert not audio[8000:].any()
        assert soundfile.info(folder / "32000" / "train" / "a.wav").frames == 2 * n_samples
    settings = TaskSettings("tones", "as-is", duration_s="original", rates_hz=(RATE_HZ,))
    folder = write_task(clips, tmp_path / "tasks", settings).folder
    assert soundfile.info(folder / "16000" / "train" / "a.wav").frames == 8000
    assert read_task(folder).duration_s is None


def test_segments_and_several_labels(tmp_path, clips):
    rows = [(path, label, 0.1, 0.3) for path, label in clips]
    rows += [(clips[0][0], "loud", 0.1, 0.3), (clips[0][0], "", 0.2, 0.4)]
    write_csv(tmp_path / "list.csv", ["path", "label", "start", "end"], rows)
    folder = made(tmp_path, "--rate", "16000", "--seed", "3")
    task = read_task(folder)
    assert (task.prediction_type, task.duration_s) == ("multilabel", pytest.approx(0.2))
    everything = {file: labels for split in task.splits for file, labels in task.truth[split].items()}
    assert everything["0-100-300.wav"] == ("high", "loud")
    assert everything["0-200-400.wav"] == ()
    (path,) = folder.rglob("5-100-300.wav")
    segment, _ = soundfile.read(tmp_path / clips[5][0], start=1600, stop=4800)
    np.testing.assert_allclose(soundfile.read(path)[0], segment, atol=1e-4)


def test_a_task_of_events(tmp_path, clips):
    rows = [(path, "x", 0.05, 0.2, "train") for path, _ in clips[:10]]
    rows += [(path, "y", 0.1, 0.3, split) for (path, _), split in zip(clips[10:12], ("dev", "test"))]
    rows += [(clips[0][0], "y", 0.25, 9.0, "train"), (clips[0][0], "x", 0.45, 0.5, "train")]
    rows += [(clips[12][0], "", "", "", "test")]
    write_csv(tmp_path / "list.csv", ["path", "label", "start", "end", "split"], rows)
    folder = made(tmp_path, "--events", "--duration", "0.4")
    task = read_task(folder)
    assert [score.name for score in task.scores] == ["event_onset_200ms_fms", "segment_1s_er"]
    # The second is cut at the end of the file, the third begins behind it.
    assert task.truth["train"]["0.wav"] == (Event("x", 50, 200), Event("y", 250, 400))
    assert task.truth["test"]["12.wav"] == ()
    assert len(task.truth["valid"]) == 1
    first = json.loads((folder / "train.json").read_text())["0.wav"][0]
    assert first == {"label": "x", "start": 50.0, "end": 200.0}


def test_folds_of_the_manifest_and_at_random(tmp_path, clips):
    rows = [(path, label, f"part {i % 4}") for i, (path, label) in enumerate(clips)]
    write_csv(tmp_path / "list.csv", ["path", "label", "fold"], rows)
    task = read_task(made(tmp_path, "--rate", "16000"))
    assert task.split_mode == "presplit_kfold"
    assert task.splits == ("fold00", "fold01", "fold02", "fold03")
    assert {int(Path(file).stem) % 4 for file in task.truth["fold02"]} == {2}
    metadata = json.loads((task.folder / "task_metadata.json").read_text())
    assert (metadata["nfolds"], metadata["max_task_duration_by_fold"]) == (4, None)
    task = read_task(
        made(tmp_path, "--rate", "16000", "--folds", "3", "--task-version", "v2").with_name("tones-v2-full")
    )
    assert (task.split_mode, [len(task.truth[fold]) for fold in task.splits]) == ("new_split_kfold", [10] * 3)


def source_clips(n, **columns):
    from serab_byols.corpus.segments import Segment

    return [
        SourceClip(
            Segment(f"{i}.wav", Path(f"{i}.wav")), ["a"], columns={k: v[i] for k, v in columns.items()}
        )
        for i in range(n)
    ]


def test_random_splits_keep_groups_together():
    clips = source_clips(60, group=[f"speaker {i % 12}" for i in range(60)])
    splits = split_clips(clips, [{"a"}] * 60, None, 0)
    assert Counter(splits.of_clip) == {"train": 50, "valid": 5, "test": 5}
    of_group = {}
    for clip, split in zip(clips, splits.of_clip):
        assert of_group.setdefault(clip.columns["group"], split) == split
    assert "of groups, seed 0" in splits.words
    assert split_clips(clips, [{"a"}] * 60, None, 0) == splits
    assert split_clips(clips, [{"a"}] * 60, None, 1).of_clip != splits.of_clip


def test_random_splits_have_every_label():
    labels = [{"rare"}] * 3 + [{"common"}] * 57
    for seed in range(5):
        of_clip = split_clips(source_clips(60), labels, None, seed).of_clip
        assert set(of_clip[:3]) == {"train", "valid", "test"}


def test_what_is_given_of_a_split_stays():
    clips = source_clips(50, split=["train"] * 40 + ["test"] * 10)
    splits = split_clips(clips, [{"a"}] * 50, None, 0)
    assert set(splits.of_clip[40:]) == {"test"}
    assert Counter(splits.of_clip[:40]) == {"train": 36, "valid": 4}  # a ninth of 80 and 10 %
    assert splits.words == "valid drawn from train of clips, seed 0"


def test_bad_audio_costs_its_row(tmp_path, clips, capsys):
    (tmp_path / "clips" / "7.flac").write_bytes(b"not audio")
    write_csv(tmp_path / "list.csv", ["path", "label"], clips)
    folder = made(tmp_path, "--rate", "16000", status=1)
    assert "7.flac" in capsys.readouterr().err
    assert len(list(folder.rglob("*.wav"))) == 29
    with pytest.raises(AudioFileError, match=r"7\.flac"):
        write_task(read_task_manifest(tmp_path / "list.csv"), tmp_path / "more", TaskSettings("tones"))
    assert list((tmp_path / "more").iterdir()) == []  # whole or not at all


def test_an_existing_task_stays(tmp_path, clips, capsys):
    write_csv(tmp_path / "list.csv", ["path", "label"], clips)
    folder = made(tmp_path, "--rate", "16000")
    before = (folder / "train.json").read_text()
    made(tmp_path, "--seed", "1", status=2)
    assert "exists already" in capsys.readouterr().err
    assert (folder / "train.json").read_text() == before


THREE = ["--folds", "3"]


@pytest.mark.parametrize(
    ("columns", "rows", "options", "message"),
    [
        (["path", "class"], [("a.wav", "x")], [], "needs a column named 'label'"),
        (["path", "label"], [], [], "lists no clips"),
        (["path", "label"], [("a.wav", "x"), ("a.wav", "x")], [], "has the label 'x' before"),
        (["path", "label"], [("a.wav", "x"), ("b/a.wav", "x")], [], "are too few"),
        (["path", "label"], [("a.wav", "x"), ("b-a.wav", "x"), ("b/a.wav", "x")], THREE, "named b-a.wav"),
        (["path", "label"], [("a.wav", "x"), ("b.wav", "x")], ["--folds", "2"], "3 or more, got 2"),
        (["path", "label", "fold"], [("a.wav", "x", 1), ("b.wav", "x", 2)], [], "the manifest has 1, 2"),
        (["path", "label", "fold"], [("a.wav", "x", 1), ("b.wav", "x", "")], [], "it is for 1 of 2"),
        (["path", "label", "fold"], [("a.wav", "x", 1), ("a.wav", "y", 2)], [], "another fold"),
        (["path", "label", "split"], [("a.wav", "x", "dressing")], [], "got 'dressing'"),
        (["path", "label"], [("a.wav", "x"), ("b.wav", "NA")], [], "'NA' as missing"),
        (["path", "label"], [("a.wav", "x")], ["--score", "wer"], "unknown score 'wer'"),
        (["path", "label"], [("a.wav", "x")], ["--score", "segment_1s_er"], "is of events"),
        (["path", "label"], [("a.wav", "x")], ["--rate", "8000"], "HEAR's sample rates"),
        (["path", "label"], [("a.wav", "x")], ["--duration", "0"], "to be positive"),
        (["path", "label"], [("a.wav", "x")], ["--name", "../x"], "'../x' is to be of letters"),
        (["path", "label", "start", "end"], [("a.wav", "x", 1, "")], ["--events"], "event needs a label"),
        (["path", "label", "start", "end"], [("a.wav", "x", 2, 1)], ["--events"], "an event from 2 to 1 s"),
        (["path", "label", "task"], [("a.wav", "x", "s"), ("b.wav", "x", "t")], [], r"tasks \(s, t\)"),
        (["path", "label", "task"], [("a.wav", "x", "s")], ["--task", "t"], "task 't'; it has s"),
    ],
)  # fmt: skip
def test_bad_manifests_and_settings(tmp_path, capsys, columns, rows, options, message):
    import re

    write_csv(tmp_path / "list.csv", columns, rows)
    made(tmp_path, *options, status=2)
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "tasks").exists() or list((tmp_path / "tasks").iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "changed"),
    [(["01", "2"], "01"), (["1.50", "2"], "1.50"), (["true", "False"], "true"), (["a", "null"], "null")],
)
def test_labels_that_hears_kit_would_change(labels, changed):
    with pytest.raises(InvalidInputError, match=f"'{changed}'"):
        check_labels(labels)


def test_labels_that_hears_kit_reads_as_they_are():
    pandas = pytest.importorskip("pandas")
    import io

    for labels in (["1", "10", "2"], ["01", "x"], ["1.5", "2.0"], ["True", "False"], ["a b", 'c,"d"']):
        check_labels(labels)
        table = io.StringIO()
        csv.writer(table).writerows([("idx", "label"), *enumerate(labels)])
        table.seek(0)
        assert pandas.read_csv(table)["label"].astype(str).tolist() == labels


def test_numbers_are_sorted_as_numbers(tmp_path, clips):
    """As HEAR's pitches are, whose chroma is their index modulo 12."""
    rows = [(path, str(58 + 22 * (i % 3))) for i, (path, _) in enumerate(clips)]
    write_csv(tmp_path / "list.csv", ["path", "label"], rows)
    folder = made(tmp_path, "--rate", "16000", "--score", "pitch_acc", "--score", "chroma_acc")
    assert read_task(folder).labels == ("58", "80", "102")
    assert [score.name for score in read_task(folder).scores] == ["pitch_acc", "chroma_acc"]


# Soundscapes.


@pytest.fixture
def soundscapes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import soundscapes

    return soundscapes


def test_soundscapes_have_their_events_where_they_say(tmp_path, clips, soundscapes):
    rows = [(path, label, i % 5) for i, (path, label) in enumerate(clips)]
    sources = read_task_manifest(write_csv(tmp_path / "list.csv", ["path", "label", "fold"], rows))
    composition = soundscapes.Composition({"train": 3, "valid": 1, "test": 2}, duration_s=6, n_events=5)
    task = soundscapes.make_soundscape_task(sources, tmp_path / "tasks", "scapes", composition, [RATE_HZ])
    assert task.n_files == {"train": 3, "valid": 1, "test": 2}
    read = read_task(task.folder)
    assert read.labels == tuple(sorted(TONES_HZ))
    for split in read.splits:
        for file, events in read.truth[split].items():
            audio = read.read_audio(split, file, RATE_HZ)
            assert len(audio) == 6 * RATE_HZ
            is_active = np.zeros(len(audio), dtype=bool)
            for event in events:
                is_active[round(event.start_ms * 16) : round(event.end_ms * 16)] = True
                onset = audio[round(event.start_ms * 16) + 80 :][:800]
                assert np.sqrt((onset**2).mean()) > 0.03
            assert np.abs(audio[~is_active]).max() < 0.03
            assert len(events) == 5


def test_soundscapes_under_a_seed(tmp_path, clips, soundscapes):
    sources = read_task_manifest(write_csv(tmp_path / "list.csv", ["path", "label"], clips))
    folders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        composition = soundscapes.Composition({"train": 1, "valid": 1, "test": 1}, 3, 2, seed=seed)
        folders.append(
            soundscapes.make_soundscape_task(sources, tmp_path / name, "s", composition, [RATE_HZ]).folder
        )
    a, b, c = ({p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*.*"))} for f in folders)
    assert a == b
    assert a != c


def test_from_a_list_of_clips_to_a_score(tmp_path, clips, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    write_module(tmp_path, "othermodule", rate_hz=22050)
    write_csv(tmp_path / "list.csv", ["path", "label"], clips)
    made(tmp_path)
    assert main(["hear", "evaluate", "othermodule", "--tasks", "tasks", "--grid", "faster"]) == 0
    assert "tones  top1_acc" in capsys.readouterr().out
