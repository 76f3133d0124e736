"""What the command line says of itself, and of what it does not understand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from serab_byols import cli
from serab_byols.cli.command_parser import did_you_mean
from serab_byols.cli.options import EXIT_OK, EXIT_USAGE

GROUPS_OF_EMBED = (
    "model",
    "frames",
    "computation",
    "what is stored",
    "a folder of Parquet files (-o DIR/)",
    "several machines (-o DIR/ in a folder that all of them share)",
)
WITH_WEIGHTS = ("embed", "probe", "pretrain", "info", "convert", "export", "list", "download")


def shown_help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == EXIT_OK
    return capsys.readouterr().out


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (EXIT_USAGE, "")
    assert err.startswith("usage: serab-byols")
    return err.splitlines()[-1]


@pytest.mark.parametrize("command", WITH_WEIGHTS)
def test_help_has_examples_that_parse(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown_help(command, capsys)
    examples = re.findall(r"^  serab-byols (.*)$", text.partition("examples:\n")[2], re.MULTILINE)
    assert 2 <= len(examples) <= 3
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # an example's --device may not be here
    for example in examples:
        assert example.split()[0] == command
        assert vars(cli._parse(example.split()))["run"]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_shows_a_metavar_once_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_help(command, capsys)
    assert "-h, --help" in text
    assert not re.search(r"^  -\w [A-Z{]", text, re.MULTILINE)
    if command == "embed":
        assert "-o, --output OUT " in text
        titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
        assert titles == ["positional arguments", "options", *GROUPS_OF_EMBED, "examples"]


@pytest.mark.parametrize("command", WITH_WEIGHTS)
def test_the_cache_is_an_option_wherever_weights_have_names(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--cache-dir DIR" in shown_help(command, capsys)


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_the_cache_is_in_force_for_the_command_alone(
    before: str | None,
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from serab_byols.checkpoint.weights_cache import cache_folder
    from serab_byols.cli import info

    if before is None:
        monkeypatch.delenv("SERAB_BYOLS_CACHE", raising=False)
    else:
        monkeypatch.setenv("SERAB_BYOLS_CACHE", before)
    seen = []

    def read(path: str) -> object:
        seen.append(cache_folder())
        return read_checkpoint(path)

    read_checkpoint = info.read_checkpoint
    monkeypatch.setattr(info, "read_checkpoint", read)
    assert cli.main(["info", str(tiny_checkpoint), "--cache-dir", str(tmp_path)]) == EXIT_OK
    assert cli.main(["info", str(tiny_checkpoint)]) == EXIT_OK
    assert seen[0] == tmp_path
    assert seen[1] != tmp_path
    assert os.environ.get("SERAB_BYOLS_CACHE") == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("emebd a.wav", "unknown command 'emebd'; did you mean embed?"),
        ("weights", "unknown command 'weights'; see --help"),
        ("--verion", "unrecognized arguments: --verion; did you mean --version?"),
        # Without the options that are required, which one of these was meant to be.
        ("embed a.wav --outptu=a.npz", "unrecognized arguments: --outptu=a.npz; did you mean --output?"),
        ("embed a.wav -o a.npz --normalisation clip", "--normalisation; did you mean --normalization?"),
        ("embed a.wav -o a.npz --frame 5", "--frame; did you mean --frame-duration?"),
        ("embed a.wav -o a.npz --colour", "embed: error: unrecognized arguments: --colour"),
        ("pretrain a -o a.safetensors --batchsize 3", "--batchsize; did you mean --batch-size?"),
        ("pretrain a -o a.safetensors --hybrid-w 3", "--hybrid-w; did you mean --hybrid-weight?"),
        ("probe a.csv --randm", "--randm; did you mean --random?"),
        ("list -x", "list: error: unrecognized arguments: -x"),
    ],
)
def test_what_is_misspelt(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(arguments.split(), capsys)
    assert line.endswith(said)


def test_words_that_are_no_options_are_left_alone() -> None:
    options = cli._parse(["info", "--", "--odd name"])
    assert options.file == "--odd name"
    assert cli._parse(["info", "--odd name"]).file == "--odd name"


def test_beginnings_come_before_likeness() -> None:
    known = ["--size", "--silence-probability", "--steps"]
    assert did_you_mean("--si", known) == "; did you mean --size or --silence-probability?"
    assert did_you_mean("--step", known) == "; did you mean --steps?"
    assert did_you_mean("--", known) == ""
    assert did_you_mean("--colour", known) == ""


@pytest.mark.parametrize("device", ["meta", "cuda:99", "banana", "privateuseone"])
def test_devices_that_are_not_here(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(["embed", "a.wav", "-o", "a.npz", "--device", device], capsys)
    assert re.search(rf"argument --device: cannot use device '{device}': .*\. Here there is: cpu", line)
