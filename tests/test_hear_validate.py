"""``serab-byols hear validate``: a good module keeps every rule, and each planted fault breaks one."""

import json
import re
import sys

import pytest
import torch
from parity_data import ROOT

from serab_byols import cli
from serab_byols.hear_benchmark import validation_timestamps
from serab_byols.hear_benchmark.validation import RULES, succeeded, validate
from serab_byols.hear_benchmark.validation_long import LongResult, run_long

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD = """
import torch

RATE, HOP_MS, FRAME_MS = 22050, 25.0, 100.0


class Model(torch.nn.Module):
    sample_rate = RATE
    scene_embedding_size = 6
    timestamp_embedding_size = 6

    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Parameter(torch.arange(12.0).reshape(2, 6).sin())

    def forward(self, samples):
        loudness = torch.stack([samples.square().mean(-1).add(1e-9).log(), samples.abs().mean(-1)], -1)
        return loudness @ self.projection


def load_model(model_file_path=""):
    model = Model()
    if model_file_path:
        model.load_state_dict(torch.load(model_file_path))
    return model


def get_scene_embeddings(audio, model):
    return model(audio)


def get_timestamp_embeddings(audio, model):
    n_samples = int(FRAME_MS * RATE / 1000)
    n_frames = int(audio.shape[1] / RATE * 1000 / HOP_MS) + 1
    timestamps = torch.arange(n_frames) * HOP_MS
    starts = [round(i * HOP_MS * RATE / 1000) for i in range(n_frames)]
    padded = torch.nn.functional.pad(audio, (n_samples // 2, n_samples))
    frames = torch.stack([padded[:, start : start + n_samples] for start in starts], 1)
    return model(frames), timestamps.repeat(len(audio), 1)
"""

SCENE = "    return model(audio)"
STAMPS = "    timestamps = torch.arange(n_frames) * HOP_MS"
STARTS = "round(i * HOP_MS * RATE / 1000)"
PAIR = "    return model(frames), timestamps.repeat(len(audio), 1)"

FAULTS = {
    "does not import": ("import torch", "import no_such_package", "import"),
    "exits when imported": ("import torch", "raise SystemExit(2)", "import"),
    "no load_model": ("def load_model", "def load", "load_model"),
    "load_model takes no path": ("model_file_path=", "*, model_file_path=", "load_model-path"),
    "missing default argument": ('model_file_path=""', "model_file_path", "load_model-default"),
    "load_model raises": ("    model = Model()", "    raise OSError('no weights')", "load-default"),
    "not a module": ("Model(torch.nn.Module)", "Model", "model-type"),
    "another sample rate": ("sample_rate = RATE", "sample_rate = 8000", "sample_rate"),
    "no sample rate": ("sample_rate = RATE", "rate = RATE", "sample_rate"),
    "float sample rate": ("sample_rate = RATE", "sample_rate = 22050.0", "sample_rate-int"),
    "float scene size": ("scene_embedding_size = 6", "scene_embedding_size = 6.0", "scene_embedding_size"),
    "float timestamp size": (
        "timestamp_embedding_size = 6",
        "timestamp_embedding_size = 6.0",
        "timestamp_embedding_size",
    ),
    "no scene function": ("def get_scene_embeddings", "def scene", "get_scene_embeddings"),
    "a third argument": (
        "stamp_embeddings(audio, model",
        "stamp_embeddings(audio, model, hop",
        "get_timestamp_embeddings",
    ),
    "scenes raise": (SCENE, "    assert audio.shape[1] > RATE, 'too short'\n" + SCENE, "scene-call"),
    "scenes are arrays": (SCENE, SCENE + ".detach().numpy()", "scene-call"),
    "scenes are a pair": (SCENE, SCENE + ", 1", "scene-call"),
    "scene dtype": (SCENE, SCENE + ".double()", "scene-dtype"),
    "scene size": ("scene_embedding_size = 6", "scene_embedding_size = 7", "scene-shape"),
    "one scene in all": (SCENE, SCENE + "[:1]", "scene-shape"),
    "silence is NaN": (SCENE, "    return model(audio) * audio.std() / audio.std()", "scene-finite"),
    "scenes are random": (SCENE, SCENE + " * torch.rand(())", "scene-repeatable"),
    "scenes share statistics": (SCENE, "    return model(audio / (audio.std() + 1e-9))", "scene-batch"),
    "frames raise": (PAIR, "    assert len(audio) > 1\n" + PAIR, "timestamp-call"),
    "no timestamps": (PAIR, "    return model(frames)", "timestamp-call"),
    "timestamp dtype": (PAIR, PAIR.replace("model(frames)", "model(frames).half()"), "timestamp-dtype"),
    "timestamp size": ("timestamp_embedding_size = 6", "timestamp_embedding_size = 5", "timestamp-shape"),
    "one row of timestamps": (PAIR, PAIR.replace("len(audio), 1", "1, 1"), "timestamp-shape"),
    "frames are NaN": (PAIR, PAIR.replace("model(frames)", "model(frames / 0)"), "timestamp-finite"),
    "frames are random": (
        PAIR,
        PAIR.replace("model(frames)", "model(frames + torch.rand(()))"),
        "timestamp-repeatable",
    ),
    "frames share statistics": (
        PAIR,
        PAIR.replace("model(frames)", "model(frames) / (audio.std() + 1e-9)"),
        "timestamp-batch",
    ),
    "uneven timestamps": (STAMPS, STAMPS + "\n    timestamps[3] += 2", "spacing"),
    "timestamps in seconds, all 0": (STAMPS, STAMPS + " * 0", "spacing"),
    "too-long last timestamp": ("/ HOP_MS) + 1", "/ HOP_MS) + 2", "within-clip"),
    "negative timestamp": (STAMPS, STAMPS + " - 1", "start"),
    "no frames at the start": (
        PAIR,
        "    return model(frames)[:, 3:], timestamps.repeat(len(audio), 1)[:, 3:]",
        "start",
    ),
    "no frames at the end": ("/ HOP_MS) + 1", "/ HOP_MS) - 3", "end"),
    "timestamps at frame starts": ("(n_samples // 2, n_samples)", "(0, 2 * n_samples)", "centred"),
    "timestamps at frame ends": ("(n_samples // 2, n_samples)", "(n_samples, n_samples)", "centred"),
    "rounded hop, timestamps beyond the end": (
        STARTS + " for i in range(n_frames)]",
        "i * 551 for i in range(n_frames)]",
        "drift",
    ),
    "rounded hop, every sample used": (
        "int(audio.shape[1] / RATE * 1000 / HOP_MS) + 1",
        "audio.shape[1] // 551 + 1",
        "drift",
    ),
    "timestamps of a rounded hop": (STAMPS, STAMPS + " * 551 / 551.25", "drift"),
}  # fmt: skip


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Write a module into the current folder, by a name that no test has used."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(source):
        name = f"planted_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("planted_"):
            del sys.modules[name]


def broken(verdicts):
    return [verdict.rule for verdict in verdicts if verdict.outcome == "failed"]


def test_a_good_module_breaks_no_rule(planted):
    path = sys.path.copy()
    verdicts = list(validate(planted(GOOD)))
    assert [verdict.rule for verdict in verdicts] == [rule.name for rule in RULES]
    assert {v.rule: v.detail for v in verdicts if v.outcome != "passed"} == {
        "load-file": "no file was given",
        "device": "the device is the CPU; name another one",
        "long": "not asked for",
    }
    assert succeeded(verdicts)
    assert sys.path == path


def test_rules_have_names_of_their_own_and_need_earlier_ones():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    for i, rule in enumerate(RULES):
        assert set(rule.needs) <= set(names[:i])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_breaks_its_rule_alone(fault, planted):
    good, bad, rule = FAULTS[fault]
    assert good in GOOD
    verdicts = list(validate(planted(GOOD.replace(good, bad))))
    assert broken(verdicts) == [rule]
    (verdict,) = [verdict for verdict in verdicts if verdict.outcome == "failed"]
    assert len(verdict.detail) > 10
    assert not succeeded(verdicts)
    for skipped in (verdict for verdict in verdicts if verdict.outcome == "skipped"):
        assert skipped.detail


def test_every_rule_can_be_broken():
    """But for those that need another device, or 20 minutes, or a file, which have tests of their own."""
    assert {rule for _, _, rule in FAULTS.values()} == {rule.name for rule in RULES} - {
        "load-file",
        "device",
        "long",
    }


def test_weights_of_a_file(planted, tmp_path):
    name = planted(GOOD)
    torch.save({"projection": torch.ones(2, 6)}, tmp_path / "good.pt")
    torch.save({"another": torch.ones(2, 6)}, tmp_path / "bad.pt")
    good, bad = ({v.rule: v for v in validate(name, tmp_path / file)} for file in ("good.pt", "bad.pt"))
    assert good["load-file"].outcome == "passed"
    assert succeeded(list(good.values()))
    assert broken(bad.values()) == ["load-file"]
    assert "another" in bad["load-file"].detail
    assert bad["scene-call"].outcome == "skipped"
    default_needed = planted(GOOD.replace('model_file_path=""', "model_file_path"))
    assert broken(validate(default_needed, tmp_path / "good.pt")) == ["load_model-default"]


def test_a_tensorflow_model_has_its_attributes_checked(planted):
    source = GOOD.replace("Model(torch.nn.Module)", "Model").replace("super().__init__()", "pass")
    name = planted(source + "\n\nModel.__module__ = 'tensorflow.python.module'\n")
    verdicts = {verdict.rule: verdict for verdict in validate(name)}
    assert broken(verdicts.values()) == []
    assert verdicts["model-type"].outcome == "skipped"
    assert "TensorFlow" in verdicts["model-type"].detail
    assert verdicts["scene_embedding_size"].outcome == "passed"
    assert verdicts["scene-call"].outcome == "skipped"
    assert not succeeded(list(verdicts.values()))


def test_a_long_clip_in_another_process(planted):
    result = run_long(planted(GOOD), "", torch.device("cpu"), 30.0)
    assert result.error == ""
    assert len(result.timestamps_ms) == 1201
    assert 50e6 < result.peak_bytes < 4e9


@pytest.mark.parametrize(
    ("does", "says"),
    [("raise MemoryError('no room')", "MemoryError: no room"), ("os.kill(os.getpid(), 9)", "signal 9")],
)
def test_a_long_clip_that_is_too_much(planted, does, says):
    source = GOOD.replace(PAIR, f"    import os\n    {does}\n{PAIR}")
    assert says in run_long(planted(source), "", torch.device("cpu"), 2.0).error


@pytest.mark.parametrize(
    ("result", "outcome", "says"),
    [
        (
            LongResult("", 2 << 30, tuple(25.0 * i for i in range(48001)), 9.0),
            "passed",
            "2.0 GiB, 48001 timestamps",
        ),
        (LongResult("", 17 << 30, tuple(25.0 * i for i in range(48001))), "failed", "17.0 GiB were needed"),
        (LongResult("", 1, tuple(25.0 * i for i in range(48021))), "failed", "fraction of a sample"),
        (LongResult("", 1, tuple(551 / 22.05 * i for i in range(48021))), "failed", "in short clips 25 ms"),
        (LongResult("MemoryError: no room"), "failed", "MemoryError: no room"),
    ],
)
def test_the_long_rule(planted, monkeypatch, result, outcome, says):
    monkeypatch.setattr(validation_timestamps, "run_long", lambda *_: result)
    (verdict,) = [v for v in validate(planted(GOOD), long=True) if v.rule == "long"]
    assert verdict.outcome == outcome
    assert says in verdict.detail


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no second device")
def test_another_device(planted):
    verdicts = list(validate(planted(GOOD), device="cuda"))
    assert succeeded(verdicts)
    assert {v.rule: v.outcome for v in verdicts}["device"] == "passed"
    stuck = GOOD.replace("samples.abs()", "samples.abs() * torch.ones((), device='cuda')")
    assert broken(validate(planted(stuck), device="cuda")) == ["device"]


def test_ours_keeps_every_rule():
    verdicts = list(validate("serab_byols"))
    assert broken(verdicts) == []
    assert succeeded(verdicts)


def test_the_page_lists_the_rules():
    page = (ROOT / "docs" / "hear-validate.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \| (\w+) \|", page, re.MULTILINE)
    assert listed == [(rule.name, rule.origin.replace("api", "API")) for rule in RULES]


# The command


def test_a_line_a_rule_and_json(planted, tmp_path, capfd):
    good, bad = planted(GOOD), planted(GOOD.replace(SCENE, SCENE + ".double()"))
    out = tmp_path / "out.json"
    assert cli.main(["hear", "validate", good, "--json", str(out)]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert len(shown.out.splitlines()) == len(RULES)
    report = json.loads(out.read_text())
    assert (report["module"], report["valid"], len(report["rules"])) == (good, True, len(RULES))
    assert {rule["origin"] for rule in report["rules"]} == {"original", "api", "extra"}
    assert cli.main(["hear", "validate", bad, "--quiet", "--json", str(out)]) == 1
    shown = capfd.readouterr()
    assert shown.out == (
        "failed  scene-dtype               scene embeddings are float32: expected torch.float32, "
        "got torch.float64\n"
    )
    assert shown.err == f"serab-byols: {bad} breaks 1 rule\n"
    assert json.loads(out.read_text())["valid"] is False


def test_what_cannot_be_written_is_said_before_the_work(planted, tmp_path, capfd):
    name = planted(GOOD)
    (tmp_path / "weights.pt").touch()
    for options, says in [
        (["--json", str(tmp_path)], "folder"),
        (["--json", "weights.pt", "--model", "weights.pt"], "is also an input"),
    ]:
        assert cli.main(["hear", "validate", name, *options]) == 2
        shown = capfd.readouterr()
        assert says in shown.err
        assert shown.out == ""


def test_a_module_that_is_not_there(planted, capfd):
    assert cli.main(["hear", "validate", "no_such_module"]) == 1
    shown = capfd.readouterr().out
    assert "No module named 'no_such_module'" in shown
    assert "skipped load_model" in shown
