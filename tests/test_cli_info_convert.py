"""``serab-byols info`` and ``serab-byols convert``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from parity_data import PUBLISHED_512 as PUBLISHED

import serab_byols
from serab_byols import create_model, load_model, save_checkpoint
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


def waveform() -> torch.Tensor:
    return torch.rand(2, 8000, generator=torch.Generator().manual_seed(0)) - 0.5


@torch.no_grad()
def embeddings(path: Path) -> torch.Tensor:
    return load_model(path)(waveform())


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["info", str(path), "--json"]) == EXIT_OK
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that says why."""
    assert main([str(argument) for argument in arguments]) == EXIT_BAD_FILES
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("serab-byols: error: ")
    assert err.count("\n") == 1
    return err


# info


def test_info_tells_what_a_file_says_of_itself(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_model(own).encoder
    assert info(own, capsys) == {
        "file": str(own),
        "bytes": own.stat().st_size,
        "format": "serab_byols safetensors, version 1",
        "written by": f"serab_byols {serab_byols.__version__}",
        "encoder": "default",
        "configuration": {"d": 8},
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "stored as": ["float32", "int64"],
        "embedding size": 8,
        "sample rate (Hz)": 16000,
        "normalization": {"mean": -6.5, "std": 5.0},
        "training": {"epochs": 3, "corpus": "räusper"},
        "weights sha256": weights_sha256(encoder),
    }


def test_info_recognises_a_state_dict(pth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = info(pth, capsys)
    assert told["format"] == "PyTorch state dict"
    assert (told["encoder"], told["configuration"], told["embedding size"]) == ("default", {"d": 8}, 8)
    assert (told["normalization"], told["training"], told["written by"]) == (None, {}, None)


def test_info_for_people(own: Path, pth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(own)]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    told = {line[:18].strip(): line[18:] for line in lines}
    assert told["configuration"] == "d=8"
    assert told["parameters"] == "79,056"
    assert told["normalization"] == "mean=-6.5, std=5.0"
    assert told["training"] == "corpus=räusper, epochs=3"
    assert told["stored as"] == "float32, int64"

    assert main(["info", str(pth)]) == EXIT_OK
    told = {line[:18].strip(): line[18:] for line in capsys.readouterr().out.splitlines()}
    assert told["normalization"] == "none stored: 'auto' means each clip's own statistics"
    assert told["training"] == "-"


def test_info_tells_the_storage_and_not_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_checkpoint(create_model(d=8), tmp_path / "half.safetensors", dtype=torch.float16)
    assert info(path, capsys)["stored as"] == ["float16", "int64"]


def test_info_tells_the_configuration_of_cvt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model("cvt", channels=(8, 8, 16), heads=(1, 1, 1), pool="max")
    told = info(save_checkpoint(model, tmp_path / "cvt.safetensors"), capsys)
    assert told["configuration"] == model.encoder.config
    assert told["embedding size"] == 16


def test_info_escapes_what_would_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"note": "\x1b[2Jgone\rnew line\nbell\a", "broken": "\ud800", "whole": "räusper 日本"}
    save_checkpoint(create_model(d=8), tmp_path / "m.safetensors", training_facts=facts)
    assert main(["info", str(tmp_path / "m.safetensors")]) == EXIT_OK
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert r"note=\x1b[2Jgone\rnew line\nbell\x07" in out
    assert r"broken=\ud800" in out
    assert "whole=räusper 日本" in out
    assert info(tmp_path / "m.safetensors", capsys)["training"] == facts


@pytest.mark.parametrize("command", ["info", "convert"])
def test_bad_files_are_one_line_and_a_status(
    command: str, tmp_path: Path, pth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [tmp_path / "out.safetensors"] if command == "convert" else []
    assert "does not exist" in refused(capsys, command, tmp_path / "none.pth", *output)
    assert "is a folder" in refused(capsys, command, tmp_path, *output)
    pth.write_bytes(pth.read_bytes()[:-100])
    assert "weights.pth is not a whole" in refused(capsys, command, pth, *output)
    torch.save({"weight": torch.zeros(1)}, pth)
    assert "weights.pth is no BYOL-S encoder" in refused(capsys, command, pth, *output)
    assert list(tmp_path.iterdir()) == [pth]


def test_info_refuses_weights_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = create_model(d=8).encoder.state_dict()
    del state["fc.3.bias"]
    torch.save(state, tmp_path / "w.pth")
    assert "fc.3.bias is missing" in refused(capsys, "info", tmp_path / "w.pth")


@pytest.mark.parametrize(
    "arguments", [["info"], ["convert"], ["convert", "a.pth"], ["info", "a", "b"], ["inform", "a"], []]
)
def test_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == EXIT_USAGE
    assert "usage:" in capsys.readouterr().err


# convert


def test_convert_keeps_the_embeddings(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["convert", str(pth), str(output)]) == EXIT_OK
    assert capsys.readouterr().out == f"{output}: default, 8 numbers an embedding\n"
    torch.testing.assert_close(embeddings(output), embeddings(pth), rtol=0, atol=0)
    told = info(output, capsys)
    assert told["weights sha256"] == info(pth, capsys)["weights sha256"]
    assert told["normalization"] is None
    assert told["training"] == {"converted_from": "weights.pth"}


@pytest.mark.parametrize("option", [["--statistics=-6.5,5"], ["--statistics", "-6.5,5"]])
def test_convert_stores_statistics(option: list[str], pth: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["convert", str(pth), str(output), *option]) == EXIT_OK
    model = load_model(output)
    assert model.statistics == (-6.5, 5.0)
    expected = load_model(pth, normalization=(-6.5, 5.0))
    torch.testing.assert_close(model(waveform()), expected(waveform()), rtol=0, atol=0)


def test_convert_keeps_what_a_file_knows(own: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    assert main(["convert", str(own), str(output)]) == EXIT_OK
    model = load_model(output)
    assert model.statistics == (-6.5, 5.0)
    assert model.training_facts == {"epochs": 3, "corpus": "räusper", "converted_from": "own.safetensors"}


def test_convert_onto_itself(own: Path) -> None:
    before = embeddings(own)
    assert main(["convert", str(own), str(own), "--statistics=0,1"]) == EXIT_OK
    assert load_model(own).statistics == (0.0, 1.0)
    torch.testing.assert_close(load_model(own, normalization=(-6.5, 5.0))(waveform()), before, rtol=0, atol=0)
    assert list(own.parent.iterdir()) == [own]


def test_convert_refuses_other_endings(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ".safetensors" in refused(capsys, "convert", pth, tmp_path / "out.pth")
    assert list(tmp_path.iterdir()) == [pth]


def test_convert_needs_the_folder(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none" in refused(capsys, "convert", pth, tmp_path / "none" / "out.safetensors")


@pytest.mark.parametrize("statistics", ["5", "a,b", "1,2,3", "clip", "batch", ""])
def test_convert_takes_two_numbers(
    statistics: str, pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["convert", str(pth), str(tmp_path / "out.safetensors"), f"--statistics={statistics}"])
    assert raised.value.code == EXIT_USAGE
    assert "--statistics" in capsys.readouterr().err


@pytest.mark.parametrize("statistics", ["nan,1", "0,0", "0,-1", "0,inf"])
def test_convert_refuses_impossible_statistics(
    statistics: str, pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    assert "positive std" in refused(capsys, "convert", pth, output, f"--statistics={statistics}")
    assert not output.exists()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are text")
def test_a_name_that_is_not_utf8_can_be_told(
    pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = pth.rename(pth.with_name(os.fsdecode(b"w\xff.pth")))
    assert main(["info", str(odd)]) == EXIT_OK
    assert "w\\udcff.pth\n" in capsys.readouterr().out
    output = odd.with_suffix(".safetensors")
    assert main(["convert", str(odd), str(output)]) == EXIT_OK
    assert "w\\udcff.safetensors: default" in capsys.readouterr().out
    plain = output.rename(tmp_path / "plain.safetensors")  # safetensors itself opens no other names
    assert read_checkpoint(plain).training_facts == {"converted_from": odd.name}


# The published weights


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not here")
def test_the_published_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = info(PUBLISHED, capsys)
    assert told["bytes"] == 2409434
    assert (told["format"], told["encoder"]) == ("PyTorch state dict", "default")
    assert (told["configuration"], told["embedding size"]) == ({"d": 512}, 512)
    output = tmp_path / "published.safetensors"
    assert main(["convert", str(PUBLISHED), str(output)]) == EXIT_OK
    torch.testing.assert_close(embeddings(output), embeddings(PUBLISHED), rtol=0, atol=0)
    capsys.readouterr()
    assert info(output, capsys)["weights sha256"] == told["weights sha256"]
    assert read_checkpoint(output).training_facts == {"converted_from": PUBLISHED.name}


def test_convert_writes_down_facts(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    options = ["--fact", "licence=MIT", "--fact", "note=a = b"]
    assert main(["convert", str(tiny_checkpoint), str(out), *options]) == EXIT_OK
    facts = load_model(out).training_facts
    assert (facts["licence"], facts["note"]) == ("MIT", "a = b")
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(tiny_checkpoint), str(out), "--fact", "licence"])
    assert stopped.value.code == EXIT_USAGE
    assert "expected KEY=VALUE, got 'licence'" in capsys.readouterr().err
