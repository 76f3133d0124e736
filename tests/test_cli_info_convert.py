"""``serab-byols info`` and ``serab-byols convert``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_data import PUBLISHED_512 as PUBLISHED
from parity_data import assert_close_to_peak
from sounds import voice

import serab_byols
from serab_byols import create_model, get_scene_embeddings, load_model, save_checkpoint
from serab_byols.checkpoint import read_checkpoint, weights_sha256
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, EXIT_USAGE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    torch.save(create_model(d=8).encoder.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    facts = {"epochs": 3, "corpus": "räusper"}
    return save_checkpoint(
        create_model(d=8), tmp_path / "own.safetensors", statistics=(-6.5, 5), training_facts=facts
    )


@torch.no_grad()
def embeddings(path: Path, **options: Any) -> torch.Tensor:
    waveforms = torch.rand(2, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    return load_model(path, **options)(waveforms)


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["info", str(path), "--json"]) == EXIT_OK
    return json.loads(capsys.readouterr().out)


def info_lines(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["info", str(path)]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    facts: dict[str, str] = {}
    name = ""
    for line in lines:
        name = line[:18].strip() or name
        facts[name] = f"{facts[name]} | {line[18:]}" if name in facts else line[18:]
    return facts


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that says why."""
    assert main([str(argument) for argument in arguments]) == EXIT_BAD_FILES
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("serab-byols: error: ")
    assert err.count("\n") == 1
    return err


def test_info_shows_what_a_file_says_of_itself(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_model(own).encoder
    assert info(own, capsys) == {
        "file": str(own),
        "bytes": own.stat().st_size,
        "format": "serab_byols safetensors, version 1",
        "written by": f"serab_byols {serab_byols.__version__}",
        "encoder": "default",
        "configuration": {"d": 8},
        "parameters": 79056,
        "stored as": ["float32", "int64"],
        "embedding size": 8,
        "sample rate (Hz)": 16000,
        "normalization": {"mean": -6.5, "std": 5.0},
        "training": {"epochs": 3, "corpus": "räusper"},
        "weights sha256": weights_sha256(encoder),
    }
    lines = info_lines(own, capsys)
    assert lines["configuration"] == "d=8"
    assert lines["parameters"] == "79,056"
    assert lines["normalization"] == "mean=-6.5, std=5.0"
    assert lines["training"] == "corpus=räusper | epochs=3"
    assert lines["stored as"] == "float32, int64"


def test_info_recognises_a_state_dict(pth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(pth, capsys)
    assert facts["format"] == "PyTorch state dict"
    assert (facts["encoder"], facts["configuration"], facts["embedding size"]) == ("default", {"d": 8}, 8)
    assert (facts["normalization"], facts["training"], facts["written by"]) == (None, {}, None)
    lines = info_lines(pth, capsys)
    assert lines["normalization"] == "none stored: 'auto' means each clip's own statistics"
    assert lines["training"] == "-"


def test_info_shows_the_storage_type_and_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("cvt", channels=(8, 8, 16), heads=(1, 1, 1), pool="max")
    facts = info(save_checkpoint(model, tmp_path / "cvt.safetensors", dtype=torch.float16), capsys)
    assert facts["stored as"] == ["float16", "int64"]
    assert facts["configuration"] == model.encoder.config
    assert facts["embedding size"] == 16


def test_info_escapes_what_would_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"note": "\x1b[2Jgone\rnew line\nbell\a", "broken": "\ud800", "whole": "räusper 日本"}
    path = save_checkpoint(create_model(d=8), tmp_path / "m.safetensors", training_facts=facts)
    line = info_lines(path, capsys)["training"]
    assert line == r"broken=\ud800 | note=\x1b[2Jgone\rnew line\nbell\x07 | whole=räusper 日本"
    assert info(path, capsys)["training"] == facts


def test_info_is_a_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"command": "pretrain " + "x" * 500, "recipe": {"steps": 3, "lr": 1e-3}}
    path = save_checkpoint(create_model(d=8), tmp_path / "m.safetensors", training_facts=facts)
    assert main(["info", str(path)]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    shown = [line[18:] for line in lines if line.startswith(("training", " "))]
    assert shown == ["command=pretrain " + "x" * 64 + "…", "recipe=(lr, steps)"]
    assert len(lines) == 14
    assert info(path, capsys)["training"] == facts


@pytest.mark.parametrize("command", ["info", "convert"])
def test_bad_files_are_one_line_and_a_status(
    command: str, tmp_path: Path, pth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [tmp_path / "out.safetensors"] if command == "convert" else []
    assert "does not exist" in refusal(capsys, command, tmp_path / "none.pth", *output)
    assert "is a folder" in refusal(capsys, command, tmp_path, *output)
    state = torch.load(pth, weights_only=True)
    del state["fc.3.bias"]
    torch.save(state, pth)
    assert "fc.3.bias is missing" in refusal(capsys, command, pth, *output)
    pth.write_bytes(pth.read_bytes()[:-100])
    assert "weights.pth is not a whole" in refusal(capsys, command, pth, *output)
    assert list(tmp_path.iterdir()) == [pth]


def test_convert_keeps_the_embeddings(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["convert", str(pth), str(output)]) == EXIT_OK
    assert capsys.readouterr().out == f"{output}: default, 8 numbers an embedding\n"
    torch.testing.assert_close(embeddings(output), embeddings(pth), rtol=0, atol=0)
    facts = info(output, capsys)
    assert facts["weights sha256"] == info(pth, capsys)["weights sha256"]
    assert facts["normalization"] is None
    assert facts["training"] == {"converted_from": "weights.pth"}


@pytest.mark.parametrize("option", [["--statistics=-6.5,5"], ["--statistics", "-6.5,5"]])
def test_convert_stores_statistics_and_facts(option: list[str], pth: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    facts = ["--fact", "licence=MIT", "--fact", "note=a = b"]
    assert main(["convert", str(pth), str(output), *option, *facts]) == EXIT_OK
    expected = embeddings(pth, normalization=(-6.5, 5.0))
    torch.testing.assert_close(embeddings(output), expected, rtol=0, atol=0)
    stored = read_checkpoint(output).training_facts
    assert stored == {"converted_from": "weights.pth", "licence": "MIT", "note": "a = b"}


def test_convert_to_half_precision(pth: Path, tmp_path: Path) -> None:
    paths = {dtype: tmp_path / f"{dtype}.safetensors" for dtype in ("float32", "float16")}
    for dtype, path in paths.items():
        assert main(["convert", str(pth), str(path), "--dtype", dtype]) == EXIT_OK
    assert paths["float16"].stat().st_size < 0.6 * paths["float32"].stat().st_size
    clip = torch.from_numpy(voice(0, 1.0))[None]
    whole, half = (get_scene_embeddings(clip, load_model(path)) for path in paths.values())
    assert half.dtype == torch.float32
    assert not torch.equal(half, whole)
    assert_close_to_peak(half, whole, 1e-3)


def test_convert_onto_itself_keeps_what_a_file_knows(own: Path) -> None:
    before = embeddings(own)
    assert main(["convert", str(own), str(own)]) == EXIT_OK
    assert load_model(own).statistics == (-6.5, 5.0)
    facts = load_model(own).training_facts
    assert facts == {"epochs": 3, "corpus": "räusper", "converted_from": "own.safetensors"}
    torch.testing.assert_close(embeddings(own), before, rtol=0, atol=0)
    assert list(own.parent.iterdir()) == [own]


def test_convert_refuses_what_it_cannot_write(
    pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    assert ".safetensors" in refusal(capsys, "convert", pth, tmp_path / "out.pth")
    assert "none" in refusal(capsys, "convert", pth, tmp_path / "none" / "out.safetensors")
    for statistics in ("nan,1", "0,0", "0,inf"):
        assert "positive std" in refusal(capsys, "convert", pth, output, f"--statistics={statistics}")
    assert list(tmp_path.iterdir()) == [pth]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info"], "usage:"),
        (["convert", "a.pth"], "usage:"),
        (["info", "a", "b"], "usage:"),
        (["inform", "a"], "usage:"),
        ([], "usage:"),
        *((["convert", "a", "b", f"--statistics={text}"], "MEAN,STD") for text in ("5", "a,b", "clip", "")),
        (["convert", "a", "b", "--fact", "licence"], "expected KEY=VALUE, got 'licence'"),
    ],
)
def test_usage_is_status_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == EXIT_USAGE
    assert message in capsys.readouterr().err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are text")
def test_a_name_that_is_not_utf8_is_printed(
    pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = pth.rename(pth.with_name(os.fsdecode(b"w\xff.pth")))
    assert info_lines(odd, capsys)["file"].endswith("w\\udcff.pth")
    output = odd.with_suffix(".safetensors")
    assert main(["convert", str(odd), str(output)]) == EXIT_OK
    assert "w\\udcff.safetensors: default" in capsys.readouterr().out
    plain = output.rename(tmp_path / "plain.safetensors")  # safetensors itself opens no other names
    assert read_checkpoint(plain).training_facts == {"converted_from": odd.name}


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not here")
def test_the_published_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(PUBLISHED, capsys)
    assert facts["bytes"] == 2409434
    assert (facts["encoder"], facts["configuration"]) == ("default", {"d": 512})
    output = tmp_path / "published.safetensors"
    assert main(["convert", str(PUBLISHED), str(output)]) == EXIT_OK
    torch.testing.assert_close(embeddings(output), embeddings(PUBLISHED), rtol=0, atol=0)
