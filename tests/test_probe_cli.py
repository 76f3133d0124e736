"""``serab-byols probe`` and its Python function: clips in, scores, JSON and pictures out."""

import csv
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from parity_data import PUBLISHED_512
from sounds import tone, voice, write

import serab_byols
from serab_byols import cli, create_model
from serab_byols.corpus.log_mel_statistics import N_STATISTICS
from serab_byols.errors import AudioFileError, CheckpointNotFoundError, InvalidInputError, MissingExtraError
from serab_byols.frontend import TorchFrontend
from serab_byols.probe import as_json, as_text, draw_confusion, features, probe
from serab_byols.probe.features import architecture, clip_statistics, random_model

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_thread")

EVALUATION = PUBLISHED_512.parents[1] / "data" / "eval" / "manifest.csv"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
N_CLIPS = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of tones and buzzes by four speakers, easy to classify with any features."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "clips").mkdir()
    rows = [("path", "label", "fold", "group", "task")]
    for i in range(N_CLIPS):
        is_tone = i % 2 == 0
        samples = tone(400 + 50 * i, 0.3, 16000) if is_tone else voice(i, 0.3)
        write(folder / "clips" / f"{i}.wav", samples)
        label = "tone" if is_tone else "$buzz$ ш"
        rows.append((f"clips/{i}.wav", label, i // 6 % 4, f"speaker {i // 6}", "kinds"))
    return written(folder / "corpus.csv", rows)


def written(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def command(tiny_checkpoint):
    """Run ``probe`` with the tiny model; arguments to exit status."""

    def run(*arguments):
        return cli.main(["probe", *map(str, arguments), "--model", str(tiny_checkpoint)])

    return run


def test_scores_json_and_pictures(corpus, command, tmp_path, capfd):
    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    options = ["--random", "--log-mel-statistics", "--c", "0.1", "--json", out, "--confusion", pictures]
    assert command(corpus, *options) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "kinds: 24 clips, 2 labels, 4 groups; chance: accuracy 0.500, UAR 0.500" in shown.out
    assert "4 folds of the column 'fold'" in shown.out
    assert "c: 0.1, fixed" in shown.out
    assert "groups drawn with replacement" in " ".join(shown.out.split())
    assert max(map(len, shown.out.splitlines())) <= 80
    report = json.loads(out.read_text())
    names = ["tiny.safetensors", "random default d=16", "log-mel statistics"]
    assert [result["features"] for result in report["results"]] == names
    assert all(f"  {name}\n    accuracy " in shown.out for name in names)
    assert report["manifest"] == str(corpus)
    assert report["skipped"] == []
    assert set(report["versions"]) > {"serab-byols", "scikit-learn", "torch"}
    for result in report["results"]:
        confusion = np.array(result["confusion"])
        assert confusion.sum() == N_CLIPS
        assert result["accuracy"] == np.trace(confusion) / N_CLIPS
        assert result["uar"] == pytest.approx(np.mean(np.diag(confusion) / confusion.sum(axis=1)))
        assert result["labels"] == ["$buzz$ ш", "tone"]
        assert [fold["c"] for fold in result["folds"]] == [0.1] * 4
        assert np.mean([fold["accuracy"] for fold in result["folds"]]) == pytest.approx(result["accuracy"])
        assert result["accuracy_interval"]["low"] <= result["accuracy"] <= result["accuracy_interval"]["high"]
        assert len(result["predictions"]) == N_CLIPS
        assert set(result["protocol"]) == {"splits", "features", "classifier", "c", "scores", "interval"}
    assert report["results"][2]["accuracy"] == 1
    first, *others = report["results"]
    assert first["difference"] is None
    assert shown.out.count("    difference from tiny.safetensors: accuracy +") == 2
    for result in others:
        difference = result["difference"]
        assert difference["other"] == "tiny.safetensors"
        assert difference["accuracy"] == pytest.approx(result["accuracy"] - first["accuracy"])
        assert difference["uar"] == pytest.approx(result["uar"] - first["uar"])
        interval = difference["accuracy_interval"]
        assert interval["low"] <= difference["accuracy"] <= interval["high"]
    assert {clip["group"] for clip in first["predictions"]} == {f"speaker {i}" for i in range(4)}
    kinds = [result["description"]["kind"] for result in report["results"]]
    assert kinds == ["model", "random weights", "log-mel statistics"]
    drawn = sorted(pictures.iterdir())
    assert [path.name for path in drawn] == [
        "kinds-log-mel-statistics.png",
        "kinds-random-default-d=16.png",
        "kinds-tiny.safetensors.png",
    ]
    assert all(path.read_bytes().startswith(PNG_SIGNATURE) for path in drawn)


def test_bad_clips_are_listed_and_left_out(corpus, command, tmp_path, capfd):
    rows = rows_of(corpus)
    missing = ["nowhere.wav", "tone", "0", "speaker 0", "kinds"]
    manifest = written(corpus.parent / "with_bad.csv", [*rows, missing])
    whole, partial = tmp_path / "whole.json", tmp_path / "partial.json"
    assert command(corpus, "--c", "0.1", "--log-mel-statistics", "--json", whole, "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert command(manifest, "--c", "0.1", "--log-mel-statistics", "--json", partial) == 1
    shown = capfd.readouterr()
    assert shown.err.count("nowhere.wav") == 1
    assert "1 clips could not be embedded; the scores are without them" in shown.err
    assert "kinds: 24 clips" in shown.out
    report = json.loads(partial.read_text())
    assert [item["file"] for item in report["skipped"]] == ["nowhere.wav"]
    assert report["results"] == json.loads(whole.read_text())["results"]


def test_a_terminal_shows_a_bar_from_the_first_second(corpus, command, monkeypatch):
    from serab_byols.probe import evaluation

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    before = {}

    def noting(function):
        def note(*arguments, **keywords):
            before.setdefault(function.__name__, terminal.getvalue())
            return function(*arguments, **keywords)

        return note

    monkeypatch.setattr(features, "embed_segments", noting(features.embed_segments))
    monkeypatch.setattr(evaluation, "fit_split", noting(evaluation.fit_split))
    assert command(corpus, "--c", "0.1") == 0
    assert "clips, tiny.safetensors:   0%|          | 0/24" in before["embed_segments"]
    assert "folds, kinds, tiny.safetensors:   0%|          | 0/4" in before["fit_split"]


def test_many_bad_clips_are_not_all_printed(corpus, command, tmp_path, capfd):
    rows = [*rows_of(corpus), *((f"no{i}.wav", "tone", "0", "speaker 0", "kinds") for i in range(30))]
    manifest = written(corpus.parent / "many.csv", rows)
    assert command(manifest, "--c", "0.1", "--quiet", "--json", tmp_path / "out.json") == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[20] == f"serab-byols: and 10 more errors; all 30 are in {tmp_path / 'out.json'}"


def test_tasks_are_probed_one_by_one(corpus, command, tmp_path, capfd):
    head, *rows = rows_of(corpus)
    reversed_labels = [[path, label[::-1], fold, group, "again"] for path, label, fold, group, _ in rows]
    manifest = written(corpus.parent / "two.csv", [head, *rows, *reversed_labels])
    assert command(manifest, "--c", "0.1") == 0
    both = capfd.readouterr().out
    assert both.index("splits: ") < both.index("again: 24 clips") < both.index("protocol: as above")
    assert both.count("splits: ") == 1
    assert command(manifest, "--c", "0.1", "--task", "again") == 0
    assert "kinds" not in capfd.readouterr().out


def test_what_cannot_be_started_is_said_before_the_work(corpus, command, tmp_path, capfd):
    file = tmp_path / "file"
    file.touch()
    for arguments, says in [
        ([tmp_path / "nowhere.csv"], "cannot be read"),
        ([corpus, "--task", "none"], "no task 'none'; it has kinds"),
        ([corpus, "--by", "split"], "no column 'split'"),
        ([corpus, "--c", "-1"], "C must be positive"),
        ([corpus, "--json", tmp_path / "no" / "out.json"], "does not exist"),
        ([corpus, "--json", tmp_path], "is a folder"),
        ([corpus, "--confusion", file], "is a file"),
        ([corpus, "--json", corpus], "is also an input"),
    ]:
        assert command(*arguments) == 2
        shown = capfd.readouterr()
        assert shown.out == ""
        assert says in shown.err


def test_all_clips_bad_is_no_result(command, tmp_path, capfd):
    rows = [("path", "label", "fold"), *((f"{i}.wav", "ab"[i % 2], i // 2) for i in range(8))]
    assert command(written(tmp_path / "bad.csv", rows)) == 2
    assert "none of its clips can be read" in capfd.readouterr().err


# The Python function


def test_results_in_python(corpus, tiny_model, tiny_checkpoint, tmp_path):
    calls = []
    results = probe(
        corpus, [tiny_model, tiny_checkpoint], c=0.01, on_progress=lambda *call: calls.append(call)
    )
    of_object, of_file = results
    assert (of_object.features, of_file.features) == ("random weights", "tiny.safetensors")
    np.testing.assert_array_equal(of_object.confusion, of_file.confusion)
    assert of_file.n_groups == 4
    assert calls.count(("clips, tiny.safetensors", N_CLIPS, N_CLIPS)) == 1
    assert calls[0] == ("clips, random weights", 0, N_CLIPS)
    assert ("folds, kinds, tiny.safetensors", 0, 4) in calls
    assert calls[-1] == ("folds, kinds, tiny.safetensors", 4, 4)
    assert as_text(results).count("kinds: ") == 1
    assert re.fullmatch(
        r"ProbeResult\('kinds', 'tiny.safetensors': 24 clips, 2 labels, 4 folds,\n"
        r"  accuracy [01]\.\d{3} \(.* to .*\), UAR .*, chance 0\.500\)",
        repr(of_file),
    )
    assert json.loads(json.dumps(as_json(results)))["manifest"] is None
    assert draw_confusion(of_file, tmp_path / "c.png").stat().st_size > 5000


def test_the_same_seed_gives_the_same_report(corpus, tiny_model):
    one, two = (as_json(probe(corpus, [tiny_model], random=True, by="group", c=0.1)) for _ in range(2))
    assert one == two


def test_an_architecture_is_named_by_what_is_not_as_usual():
    named = {
        architecture(create_model(name, **config)) for name, config in (("cvt", {}), ("default", {"d": 8}))
    }
    assert named == {"cvt", "default d=8"}
    assert (
        architecture(create_model("cvt", channels=(8, 8, 8), pool="max")) == "cvt channels=[8, 8, 8] pool=max"
    )


def test_random_baselines_are_seeded_and_one_an_architecture(corpus, tiny_model):
    names = [r.features for r in probe(corpus, [tiny_model, tiny_model], random=True, c=0.1)]
    assert names == ["random weights", "random weights", "random default d=16"]
    weights = [random_model(tiny_model, seed).state_dict() for seed in (0, 0, 1)]
    key = next(iter(weights[0]))
    assert torch.equal(weights[0][key], weights[1][key])
    assert not torch.equal(weights[0][key], weights[2][key])


def test_errors_in_python(corpus, tiny_model):
    with pytest.raises(InvalidInputError, match="takes a list of models"):
        probe(corpus, "weights.pth")
    for models, got in [(tiny_model, "ByolsModel; for one pass"), (5, "5"), (b"a.pth", "a.pth")]:
        with pytest.raises(InvalidInputError, match=f"takes a list of models, got .*{got}"):
            probe(corpus, models)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InvalidInputError, match="path of a CSV file, got DataFrame: write it"):
        probe(pandas.DataFrame({"path": ["a.wav"], "label": ["a"]}), [tiny_model])
    with pytest.raises(InvalidInputError, match="takes a list of models, got DataFrame"):
        probe(corpus, pandas.DataFrame())
    with pytest.raises(InvalidInputError, match="a manifest must be a path, got ByolsModel"):
        probe(tiny_model, [corpus])
    for function in (as_text, as_json):
        with pytest.raises(InvalidInputError, match="list of results of probe, got ByolsModel"):
            function(tiny_model)
    with pytest.raises(InvalidInputError, match="one result of probe, got list"):
        draw_confusion([], "c.png")
    with pytest.raises(InvalidInputError, match="nothing to probe"):
        probe(corpus, [])
    with pytest.raises(CheckpointNotFoundError):
        probe(corpus, ["nowhere.pth"])
    with pytest.raises(InvalidInputError, match="shares statistics"):
        probe(corpus, [serab_byols.create_model(d=8, normalization="batch")])
    manifest = written(
        corpus.parent / "raises.csv", [("path", "label"), *((f"no{i}.wav", "ab"[i % 2]) for i in range(8))]
    )
    with pytest.raises(AudioFileError, match="no0"):
        probe(manifest, [tiny_model])


def test_log_mel_statistics_of_a_clip():
    frontend = TorchFrontend()
    steady, louder = (clip_statistics(level * tone(1000, 1.0, 16000), frontend) for level in (1, 2))
    assert (steady.shape, steady.dtype) == ((N_STATISTICS,), np.float32)
    band = np.argmax(frontend.mel_fb[1000 * 1024 // 16000].numpy())
    assert np.argmax(steady[:64]) == band
    assert louder[band] - steady[band] == pytest.approx(np.log(4), abs=1e-3)
    assert louder[84 + band] == pytest.approx(steady[84 + band], abs=1e-3)
    assert np.isfinite(clip_statistics(np.zeros(10, np.float32), frontend)).all()


@pytest.mark.parametrize(("package", "action"), [("sklearn", "probe"), ("matplotlib", "picture")])
def test_a_missing_extra_says_how_to_get_it(package, action, corpus, tiny_model, monkeypatch, tmp_path):
    results = probe(corpus, [tiny_model], c=0.1)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # an import of it raises ImportError
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[probe\]'"):
        probe(corpus, [tiny_model]) if action == "probe" else draw_confusion(results[0], tmp_path / "c.png")


@pytest.mark.skipif(
    not (PUBLISHED_512.exists() and EVALUATION.exists()),
    reason="the published weights and labelled speech are not here",
)
def test_emotions_are_classified_as_well_as_was_measured_elsewhere():
    (result,) = probe(EVALUATION, [PUBLISHED_512], tasks=["emodb7_2s"], c=0.01)
    assert (result.n_clips, result.n_groups, len(result.folds)) == (535, 10, 5)
    assert 0.74 <= result.accuracy <= 0.80
    assert result.accuracy_interval.low < 0.764 < result.accuracy_interval.high
