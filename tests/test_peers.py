"""The benchmarks of accuracy: their pure parts, and one candidate in a process of its own."""

import argparse
import json
from importlib.metadata import PathDistribution

import numpy as np
import pytest
from packaging.utils import canonicalize_name
from parity_data import ROOT
from sounds import voice, write

from serab_byols import embed_files, load_model
from serab_byols.checkpoint.registry import bundled
from serab_byols.errors import InvalidInputError

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """The benchmarks can be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


# Pages


def page(name="scores", between="old"):
    part = f"<!-- begin {name}, written by a program -->{between}<!-- end {name} -->"
    return f"# Title\n\nBefore.\n\n{part}\n\nAfter.\n"


def test_only_what_is_between_the_markers_changes():
    from generated_page import replaced

    text = page("other", "kept") + page()
    changed = replaced(text, "scores", "new\n")
    assert changed == page("other", "kept") + page(between="\n\nnew\n\n")
    assert replaced(changed, "scores", "new") == changed


@pytest.mark.parametrize(
    "text", ["no markers", page() + page(), page("other"), "<!-- end scores -->" + page().split("old")[0]]
)
def test_a_page_without_its_markers_is_refused_and_stays(text, tmp_path):
    from generated_page import write_part

    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="needs, once each"):
        write_part(path, "scores", "new")
    assert path.read_text() == text


def test_a_table():
    from generated_page import markdown_table

    assert markdown_table(["a", "b"], [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
    with pytest.raises(InvalidInputError, match="2 columns has 1 cells"):
        markdown_table(["a", "b"], [["1"]])


def test_the_pages_have_the_markers_that_the_programs_write():
    import choices
    from generated_page import replaced

    peers_page = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    assert "new" in replaced(peers_page, "peers", "new")
    choices_page = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    for name in (*choices.TABLES, "run"):
        assert "new" in replaced(choices_page, name, "new")


# Sizes


@pytest.fixture
def site(tmp_path):
    """Four packages: ``top`` needs torch and ``small``, torch ``under``, ``small`` what is not there."""
    needs = {"top": ["torch", 'small>=1; python_version > "3"', 'not-wanted; extra == "more"']}
    needs |= {"torch": ["under"], "under": [], "small": ["absent"]}
    sizes = {"top": 1, "torch": 1000, "under": 100, "small": 10}
    found = {}
    for name, requirements in needs.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requirements)]
        (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines]) + "\n")
        for file, n_bytes in ((f"{name}.py", sizes[name]), (f"{name}.pyc", 7777)):
            (tmp_path / file).write_bytes(bytes(n_bytes))
        (folder / "RECORD").write_text(f"{name}.py,,\n{name}.pyc,,\n{name}_gone.py,,\n")
        found[canonicalize_name(name)] = PathDistribution(folder)
    return found


def test_a_size_has_all_requirements_and_no_bytecode(site, monkeypatch):
    import install_size

    monkeypatch.setattr(install_size, "installed", lambda: site)
    assert install_size.install_size(["top"]) == (1111, 11, ["absent"])
    assert install_size.install_size(["small"]) == (10, 10, ["absent"])
    assert install_size.install_size(["torch"]) == (1100, 0, [])
    assert install_size.install_size(["small", "Under"]) == (110, 110, ["absent"])


def test_a_package_installed_in_place_has_the_size_of_its_modules(site, tmp_path, monkeypatch):
    import install_size

    monkeypatch.setattr(install_size, "installed", lambda: site)
    (tmp_path / "inplace").mkdir()
    (tmp_path / "inplace" / "__init__.py").write_bytes(b"#" * 5)
    (tmp_path / "weights").write_bytes(bytes(40))
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "under-1.0.dist-info"
    (info / "top_level.txt").write_text("inplace\n")
    assert install_size.install_size(["under"], [tmp_path / "weights"]).total == 100
    (info / "direct_url.json").write_text(json.dumps({"dir_info": {"editable": True}}))
    assert install_size.install_size(["under"], [tmp_path / "weights"]).total == 145


# Tasks


def manifest(folder, n_clips=20, task=""):
    """Voices of two people, in two folds."""
    rows = ["path,label,fold" + (",task" if task else "")]
    for i in range(n_clips):
        write(folder / f"{i:02}.wav", voice(i % 2, 0.25 + 0.01 * i))
        rows.append(f"{i:02}.wav,{'ab'[i % 2]},{i // 2 % 2}" + (f",{task}" if task else ""))
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder / "clips.csv"


def test_tasks_are_named_on_the_command_line(tmp_path):
    from labelled_tasks import add_task_option, read_tasks

    parser = argparse.ArgumentParser()
    add_task_option(parser)
    path = manifest(tmp_path)
    read = read_tasks(parser.parse_args(["--task", f"voices={path}"]).task)
    assert [task.name for task in read.tasks] == ["voices"]
    assert len(read.segments) == 20
    (tmp_path / "more").mkdir()
    with_task = manifest(tmp_path / "more", task="one")
    rows = with_task.read_text().splitlines()
    with_task.write_text("\n".join([*rows[:9], *(row.replace(",one", ",two") for row in rows[9:])]))
    (two,) = read_tasks([("two", with_task)]).tasks
    assert (two.name, len(two.segments)) == ("two", 12)
    with pytest.raises(InvalidInputError, match="no task 'three'; it has one, two"):
        read_tasks([("three", with_task)])
    with pytest.raises(SystemExit):
        parser.parse_args(["--task", str(path)])
    assert read.digest() != read_tasks([("other", path)]).digest()


def test_without_clips_there_is_nothing_to_measure(tmp_path, monkeypatch):
    import labelled_tasks

    monkeypatch.setattr(labelled_tasks, "MANIFEST", tmp_path / "manifest.csv")
    with pytest.raises(SystemExit, match="--task NAME=MANIFEST"):
        labelled_tasks.read_tasks(None)


def test_scores_are_of_the_clips_in_their_order(tmp_path):
    from labelled_tasks import read_tasks, score_cells

    read = read_tasks([("voices", manifest(tmp_path))])
    labels = np.array([label == "a" for label in read.tasks[0].labels], dtype=float)
    known = read.scores(np.stack([labels, 1 - labels], axis=1))
    assert known["voices"]["accuracy"] == known["voices"]["few_shot"] == 1
    constant = read.scores(np.zeros((20, 2)))
    assert constant["voices"]["accuracy"] == 0.5
    assert score_cells(known, ["voices"]) == ["1.000 (1.000)"]
    assert score_cells(None, ["voices"]) == [""]


# Peers


def results():
    facts = {"embedding_size": 512, "n_parameters": 600_000, "total": 2e9, "without_torch": 110e6}
    facts |= {"package": "some-package", "version": "1.2", "missing": ["absent"]}
    scores = {"voices": {"accuracy": 0.91, "few_shot": 0.758, "few_shot_std": 0.01}}
    machine = {"cpu": "a processor", "cores": 2, "python": "3.11.0", "torch": "2.13.0"}
    accuracy = {
        "good": {"key": "", "n_not_finite": 3, "scores": scores, "facts": facts},
        "bad": {"error": "ModuleNotFoundError: no such thing"},
    }
    return {"tasks": ["voices"], "accuracy": accuracy, "speed": {}, "accuracy_machine": machine}


def test_the_table_of_peers_before_and_after_the_speed_step():
    from peers import page_content, summarised

    measured = results()
    before = page_content(measured, ["good", "bad"], ["benchmarks/peers.py"])
    assert "| good | 512 | 0.6 M | 0.910 (0.758) |  |  | 2000 (110) |" in before
    assert "| bad |  |  |  |  |  |  |" in before
    assert "not measured yet" in before
    assert "bad: no result (ModuleNotFoundError: no such thing)" in before
    assert "good: 3 values that are not finite" in before
    assert "some-package asks for absent too" in before
    rounds = [{"audio_s": 100.0, "seconds": s, "peak_bytes": s * 1e8, "load_s": 1.0} for s in (1, 4, 2)]
    measured["speed"] = {"good": summarised(rounds)}
    measured["speed_machine"] = {**measured["accuracy_machine"], "load_averages": [0.1, 1.0]}
    measured["speed_of"] = {"n_clips": 5, "audio_s": 100.0, "n_rounds": 3}
    after = page_content(measured, ["good", "bad"], ["benchmarks/peers.py", "--model=some file.pth"])
    assert "| 50 (25-100) | 400 | 2000 (110) |" in after
    assert "load average 0.1 at the start, 1.0 at the end" in after
    assert "`python benchmarks/peers.py '--model=some file.pth'`" in after


def test_every_bundled_checkpoint_and_architecture_is_a_row(tiny_checkpoint):
    from peers import PEERS, contenders

    rows = contenders([str(tiny_checkpoint)])
    models = {row.name for row in rows if row.arguments[0] == "model"}
    assert models == {*bundled(), tiny_checkpoint.stem}
    assert {"random weights, default d=16"} < {row.name for row in rows if row.arguments[0] == "random"}
    assert rows[-len(PEERS) :] == list(PEERS)


def test_both_steps_for_small_candidates(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    import peers

    tiny = peers.Contender("tiny", ("model", str(tiny_checkpoint)))
    monkeypatch.setattr(peers, "contenders", lambda weights: [tiny, peers.Contender("wrong", ("wrong",))])
    path, run = tmp_path / "page.md", tmp_path / "run"
    path.write_text(page("peers"))
    clips = manifest(tmp_path)
    options = ["--task", f"voices={clips}", "--run", str(run), "--page", str(path)]

    peers.main([*options, "--only", "accuracy"])
    assert "| tiny | 16 | " in path.read_text()
    assert "wrong: no result" in path.read_text()
    with np.load(run / "features.npz") as archive:
        records = embed_files(sorted(tmp_path.glob("*.wav")), load_model(tiny_checkpoint))
        expected = np.stack([record.embedding for record in records])
        np.testing.assert_allclose(archive["features"], expected, atol=1e-5 * np.abs(expected).max())
        facts = json.loads(str(archive["facts"]))
    assert facts["audio_s"] == pytest.approx(6.9)
    assert facts["peak_bytes"] > 50e6
    assert facts["total"] > facts["without_torch"] > sum(p.stat().st_size for p in bundled().values())

    peers.main([*options, "--only", "speed", "--rounds", "1", "--clips", "2"])
    assert "2 clips, 1 s of audio, median of 1 rounds" in path.read_text()
    assert "accuracy: tiny" in capsys.readouterr().err

    peers.main([*options, "--only", "accuracy"])
    assert "accuracy: tiny" not in capsys.readouterr().err
