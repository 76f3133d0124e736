"""The benchmark of choices, on a few made-up voices and with a small model: its tables, and what it keeps."""

import json

import numpy as np
import pytest
import soundfile
import torch
from parity_data import ROOT
from sounds import voice, write

from serab_byols import get_timestamp_embeddings, load_model
from serab_byols.errors import InvalidInputError

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("one_thread")
N_CLIPS = 36


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Three voices in three folds."""
    folder = tmp_path_factory.mktemp("voices")
    rows = ["path,label,fold"]
    for i in range(N_CLIPS):
        write(folder / f"{i:02}.wav", voice(i % 3, 0.3 + 0.01 * i))
        rows.append(f"{i:02}.wav,{'abc'[i % 3]},{i // 3 % 3}")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder / "clips.csv"


@pytest.fixture
def small(monkeypatch, tiny_checkpoint):
    """The benchmark with few choices and one small model."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import choices

    monkeypatch.setattr(choices, "named_weights", lambda more: {"tiny": str(tiny_checkpoint)})
    monkeypatch.setattr(choices, "RULES", ("clip", "batch", "hear2021", (-6.0, 5.0)))
    monkeypatch.setattr(choices, "FRAMES", (choices.Frames(200.0), choices.Frames(hop_ms=200.0)))
    monkeypatch.setattr(choices, "HEAR_GRID", "faster")
    monkeypatch.setattr(choices, "EVENT_SEEDS", (42, 43))
    composition = choices.Composition({"train": 3, "valid": 2, "test": 2}, duration_s=3, n_events=3)
    monkeypatch.setattr(choices, "SOUNDSCAPES", composition)
    grid = {**choices.EVENT_GRID, "max_epochs": [2], "check_val_every_n_epoch": [1], "hidden_dim": [8]}
    monkeypatch.setattr(choices, "EVENT_GRID", grid)
    return choices


def part(page, name):
    return page.split(f"<!-- begin {name}")[1].split(f"<!-- end {name}")[0]


def test_all_tables(small, manifest, tmp_path, capsys):
    names = (*small.TABLES, "run")
    page, run = tmp_path / "page.md", tmp_path / "run"
    page.write_text("\n".join(f"<!-- begin {n}, written by a program -->\n<!-- end {n} -->" for n in names))
    options = ["--task", f"voices={manifest}", "--spoken", "voices", "--run", str(run), "--page", str(page)]
    small.main(options)
    text = page.read_text()
    weights = part(text, "weights")
    assert "| weights | encoder | voices | words | events |" in weights
    assert "| tiny | default d=16 |" in weights
    assert "| random default d=16 |" in weights
    assert "| log-mel statistics |" in weights
    rows = part(text, "normalisation")
    for rule in ("`clip`", "`batch`", "`hear2021`", "`(-6, 5)`"):
        assert f"| tiny | {rule} |" in rows
    assert "| exact | 200 | 50 |" in part(text, "frames")
    assert "| exact | 1000 | 200 |  |  |" in part(text, "frames")
    assert "| tiny | bfloat16 |" in part(text, "precision")
    assert part(text, "hear").count("| tiny |") == 1
    assert "`python benchmarks/choices.py`" in part(text, "run")

    kept = json.loads((run / "results.json").read_text())
    assert all(len(value) == 2 for key, value in kept.items() if '"events"' in key)
    capsys.readouterr()
    small.main(options)
    assert capsys.readouterr().err == ""
    assert page.read_text() == text


def test_vectors_are_scene_embeddings_or_means_over_frames(small, manifest, tmp_path, tiny_checkpoint):
    from labelled_tasks import read_tasks

    labelled = read_tasks([("voices", manifest)])
    benchmark = small.Benchmark(labelled, "voices", tmp_path)
    model = load_model(tiny_checkpoint)
    vectors = benchmark._vectors(model, small.Frames(200.0))
    clip, _ = soundfile.read(manifest.with_name("02.wav"), dtype="float32")
    frames, _ = get_timestamp_embeddings(torch.from_numpy(clip)[None], model, 200.0, 50.0)
    np.testing.assert_allclose(vectors[2], frames[0].mean(dim=0).numpy(), atol=1e-5)
    batch = load_model(tiny_checkpoint, normalization="batch")
    assert not np.allclose(benchmark._vectors(batch, None), benchmark._vectors(model, None), atol=1e-3)


def test_a_task_of_words_is_needed(small, manifest, tmp_path):
    from labelled_tasks import read_tasks

    with pytest.raises(InvalidInputError, match="no task 'words' to speak"):
        small.Benchmark(read_tasks([("voices", manifest)]), "words", tmp_path)
