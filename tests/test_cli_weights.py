"""``serab-byols list`` and ``download`` as typed, and names where a command takes a checkpoint."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import weights_server as ways
from parity_data import ROOT
from weights_server import FILE_NAME, NAME, Server, state_dict_bytes, weights_of

from serab_byols import create_model, load_model, save_checkpoint
from serab_byols.checkpoint import download, registry
from serab_byols.checkpoint.registry import PUBLISHED
from serab_byols.checkpoint.transfer import Patience
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_INTERRUPTED, EXIT_OK
from serab_byols.errors import CheckpointNotFoundError

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = state_dict_bytes()


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, beside a cache and a folder of bundled weights."""
    monkeypatch.delenv("SERAB_BYOLS_OFFLINE", raising=False)
    monkeypatch.setenv("SERAB_BYOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(registry, "CHECKPOINT_FOLDERS", (tmp_path / "bundled",))
    monkeypatch.setattr(download, "PATIENCE", Patience(n_attempts=2, timeout_s=10, pause_s=0.001))
    for folder in ("bundled", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with ways.running(DATA) as told:
        monkeypatch.setattr(registry, "PUBLISHED", (weights_of(DATA, told.url),))
        yield told


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    path = tmp_path / "bundled" / f"{registry.DEFAULT_NAME}.safetensors"
    return save_checkpoint(create_model(d=9), path, training_facts={"licence": "CC0", "citation": "us"})


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return (status, *capsys.readouterr())


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, dict[str, object]]:
    status, out, err = run(capsys, "list", "--json", *words)
    assert (status, err) == (EXIT_OK, "")
    return {row["name"]: row for row in json.loads(out)}


# list


def test_list_for_programs(
    server: Server, bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = registry.PUBLISHED[0]
    cached = tmp_path / "cache" / FILE_NAME
    expected = {
        "name": NAME,
        "encoder": "default",
        "embedding_size": 8,
        "bytes": len(DATA),
        "licence": "MIT",
        "citation": "nobody, nowhere",
        "present": False,
        "path": None,
        "default": False,
        "file": FILE_NAME,
        "url": f"{server.url}/{FILE_NAME}",
        "sha256": weights.sha256,
        "git_blob_id": weights.git_blob_id,
    }
    assert listed(capsys) == {
        registry.DEFAULT_NAME: {
            "name": registry.DEFAULT_NAME,
            "encoder": "default",
            "embedding_size": 9,
            "bytes": bundled.stat().st_size,
            "licence": "CC0",
            "citation": "us",
            "present": True,
            "path": str(bundled),
            "default": True,
        },
        NAME: expected,
    }
    load_model(NAME)
    assert listed(capsys)[NAME] == {**expected, "present": True, "path": str(cached)}
    assert not listed(capsys, "--cache-dir", tmp_path / "other")[NAME]["present"]
    cached.write_bytes(DATA[:-1])
    assert not listed(capsys)[NAME]["present"]
    assert len(server.requests) == 1


def test_list_for_people(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "list")
    assert (status, err) == (EXIT_OK, "")
    rows = [line.split(maxsplit=5) for line in out.splitlines()]
    assert rows[:3] == [
        ["NAME", "ENCODER", "D", "MB", "LICENCE", "WHERE"],
        [registry.DEFAULT_NAME, "default", "9", f"{bundled.stat().st_size / 1e6:.1f}", "CC0", str(bundled)],
        ["byols-audiontt-2048", "default", "2048", "21.3", "MIT", "serab-byols download byols-audiontt-2048"],
    ]
    assert rows[4][:5] == ["hybrid-byols-cvt-2048", "cvt", "2048", "?", "MIT"]
    assert len(rows) == 6


def test_list_passes_over_a_damaged_file(
    bundled: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled.write_bytes(bundled.read_bytes()[:-10])
    status, out, err = run(capsys, "list")
    assert status == EXIT_OK
    assert NAME in out
    assert bundled.name in err
    assert registry.DEFAULT_NAME not in out


def test_list_shows_what_lies_in_checkpoints(
    server: Server, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "checkpoints").mkdir()
    (work / "checkpoints" / FILE_NAME).write_bytes(DATA)
    assert listed(capsys)[NAME]["path"] == str(Path("checkpoints") / FILE_NAME)


# download


def test_download_prints_the_path(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached = tmp_path / "cache" / FILE_NAME
    for _ in range(2):
        assert run(capsys, "download", NAME) == (EXIT_OK, f"{cached}\n", "")
    assert cached.read_bytes() == DATA
    mine = tmp_path / "mine"
    assert run(capsys, "download", NAME, "--cache-dir", mine) == (EXIT_OK, f"{mine / FILE_NAME}\n", "")
    assert len(server.requests) == 2


def test_the_command_of_the_error_makes_the_same_call_work(
    server: Server, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"check points/{FILE_NAME}"
    with pytest.raises(CheckpointNotFoundError) as raised:
        load_model(path, "default")
    said = str(raised.value)
    command = said[said.index("serab-byols download") : said.index(". Or load it")]
    program, *words = shlex.split(command)
    assert program == "serab-byols"
    assert run(capsys, *words) == (EXIT_OK, f"{path}\n", "")
    assert load_model(path, "default").embedding_size == 8
    assert [entry.name for entry in (work / "check points").iterdir()] == [FILE_NAME]
    assert run(capsys, *words)[0] == EXIT_OK
    assert len(server.requests) == 1


@pytest.mark.parametrize("offline", ["0", "1"])
def test_download_takes_what_is_here(
    offline: str,
    server: Server,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERAB_BYOLS_OFFLINE", offline)
    (work / "checkpoints").mkdir()
    (work / "checkpoints" / FILE_NAME).write_bytes(DATA)
    assert run(capsys, "download", NAME)[:2] == (EXIT_OK, f"checkpoints/{FILE_NAME}\n")
    assert run(capsys, "download", NAME, "-o", "copy")[:2] == (EXIT_OK, f"copy/{FILE_NAME}\n")
    assert (work / "copy" / FILE_NAME).read_bytes() == DATA
    assert not server.requests


def test_download_mends_a_damaged_copy(
    server: Server, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "checkpoints").mkdir()
    copy = work / "checkpoints" / FILE_NAME
    copy.write_bytes(DATA[:-1])
    status, out, err = run(capsys, "info", NAME)
    assert (status, out) == (EXIT_BAD_FILES, "")
    assert "is not the published file" in err
    assert run(capsys, "download", NAME, "-o", "checkpoints")[0] == EXIT_OK
    assert copy.read_bytes() == DATA
    assert run(capsys, "info", NAME)[0] == EXIT_OK


def test_a_failed_download_is_one_line_and_status_1(
    server: Server, bundled: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answered(ways.status(404))
    status, out, err = run(capsys, "download", NAME, registry.DEFAULT_NAME, "-o", "there")
    assert status == EXIT_BAD_FILES
    assert out == f"there/{bundled.name}\n"  # what can be had is
    assert err.startswith(f"serab-byols: error: {NAME} could not be downloaded from {server.url}")
    assert "answers 404" in err
    assert err.count("\n") == 1
    assert [entry.name for entry in (work / "there").iterdir()] == [bundled.name]


def test_an_unknown_name_downloads_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "download", NAME, "tiny8")
    assert (status, out) == (EXIT_BAD_FILES, "")
    assert "no weights named 'tiny8'; did you mean 'tiny-8'?" in err
    assert not server.requests


def test_bundled_weights_need_no_download(
    server: Server, bundled: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "download", registry.DEFAULT_NAME) == (EXIT_OK, f"{bundled}\n", "")
    before = bundled.read_bytes()
    assert run(capsys, "download", registry.DEFAULT_NAME, "-o", bundled.parent)[0] == EXIT_OK
    assert run(capsys, "download", registry.DEFAULT_NAME, "-o", ".")[0] == EXIT_OK
    assert bundled.read_bytes() == (work / bundled.name).read_bytes() == before


def test_an_interruption_says_that_it_is_continued(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "receive", interrupted)
    status, out, err = run(capsys, "download", NAME)
    assert (status, out) == (EXIT_INTERRUPTED, "")
    assert "continues it" in err


def test_a_failed_copy_leaves_nothing(
    server: Server, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])

    monkeypatch.setattr("shutil.copyfile", half)
    status, out, err = run(capsys, "download", NAME, "-o", "there")
    assert (status, out) == (EXIT_BAD_FILES, "")
    assert "copy in there went wrong: it has 100 bytes" in err
    assert not list((work / "there").iterdir())


# Names in other commands


def test_info_and_convert_take_names(server: Server, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", NAME, "--json")
    assert status == EXIT_OK
    assert json.loads(out)["bytes"] == len(DATA)
    assert run(capsys, "convert", NAME, "out.safetensors")[0] == EXIT_OK
    model = load_model("out.safetensors")
    assert model.training_facts == {"converted_from": FILE_NAME}
    expected = load_model(NAME)
    audio = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(audio), expected(audio), rtol=0, atol=0)


def test_the_page_on_weights_works_as_written(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With small weights under every published name."""
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    facts = {field: getattr(registry.PUBLISHED[0], field) for field in ("git_blob_id", "sha256", "n_bytes")}
    small = [replace(weights, folder_url=server.url, **facts) for weights in PUBLISHED]
    assert all(weights.name in page and f"`{weights.file_name}`" in page for weights in small)
    monkeypatch.setattr(registry, "PUBLISHED", small)
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for language, code in blocks:
        if language == "python":
            exec(compile(code, "weights.md", "exec"), {})
        else:
            statuses = [run(capsys, *shlex.split(line)[1:])[0] for line in code.splitlines()]
            assert set(statuses) == {EXIT_OK}, code
    assert [language for language, _ in blocks].count("sh") >= 3
    assert len(server.requests) == 3  # one by its name, and two into a cache of their own


def test_as_a_program(tmp_path: Path) -> None:
    """With no terminal and no environment but its own: the real names, nothing downloaded."""
    result = subprocess.run(
        [sys.executable, "-m", "serab_byols", "list", "--json", "--cache-dir", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert not rows["byols-resnetish34-2048"]["present"]
    assert rows["byols-resnetish34-2048"]["bytes"] == 85_254_535
    assert result.stderr == ""
    assert not (tmp_path / "none").exists()
