"""Weights by name: the published ones, the files that names lead to, downloads, and the commands for them."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pooch
import pytest
import torch
from parity_data import MANIFEST, PUBLISHED_512, ROOT
from weights_server import (
    FILE_NAME,
    NAME,
    Answer,
    Server,
    published_at,
    redirect,
    running,
    stalled,
    state_dict_bytes,
    status,
    whole,
)

from serab_byols import create_model, load_model, save_checkpoint
from serab_byols.checkpoint import read_checkpoint, registry, weights_cache
from serab_byols.checkpoint.registry import DEFAULT_NAME, PUBLISHED
from serab_byols.checkpoint.weights_cache import cache_folder, find_or_download, mismatch
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, DownloadError, InvalidInputError
from serab_byols.normalization import Statistics

pytestmark = [
    pytest.mark.usefixtures("one_thread", "lost_connections"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

DATA = state_dict_bytes()
OTHER = state_dict_bytes(seed=1)
assert len(OTHER) == len(DATA)
needs_the_published_file = pytest.mark.skipif(
    not PUBLISHED_512.is_file(), reason="the published weights are not here"
)


@pytest.fixture(scope="module")
def lost_connections() -> Iterator[None]:
    """Pooch leaves the connection of a failed download to the garbage collector, which warns of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, beside a cache and folders of bundled weights that are the test's own."""
    monkeypatch.delenv("SERAB_BYOLS_OFFLINE", raising=False)
    monkeypatch.setenv("SERAB_BYOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(registry, "CHECKPOINT_FOLDERS", (tmp_path / "wheel", tmp_path / "tree"))
    monkeypatch.setattr(weights_cache, "PAUSES_S", (0, 0))
    for folder in ("wheel", "tree", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """Where a download goes."""
    return tmp_path / "cache" / FILE_NAME


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Publishes one file, under the only name that is published."""
    with running(DATA) as told:
        monkeypatch.setattr(registry, "PUBLISHED", (published_at(told.url, DATA),))
        yield told


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, d: int = 8, folder: str = "tree", **facts: object) -> Path:
        path = tmp_path / folder / f"{name}.safetensors"
        return save_checkpoint(create_model(d=d), path, training_facts=facts)

    return make


def failure(server: Server, *, sized: bool = True) -> str:
    """The error of a download that fails; nothing is left in the cache then."""
    with pytest.raises(DownloadError) as raised:
        find_or_download(published_at(server.url, DATA, sized=sized))
    assert isinstance(raised.value, OSError)
    folder = cache_folder()
    assert not folder.exists() or not list(folder.iterdir())
    return str(raised.value)


# The registry


def test_published_weights_are_described() -> None:
    described = {
        "byols-audiontt-2048": "default2048",
        "byols-resnetish34-2048": "resnetish34",
        "hybrid-byols-cvt-2048": "cvt",
        "byols-audiontt-512": "default512",
    }
    assert [weights.name for weights in PUBLISHED] == list(described)
    for field in ("file_name", "git_blob_id"):
        assert len({getattr(weights, field) for weights in PUBLISHED}) == len(PUBLISHED)
    for weights in PUBLISHED:
        facts = MANIFEST["encoders"][described[weights.name]]
        assert (weights.encoder, weights.embedding_size) == (facts["model_name"], facts["embedding_size"])
        assert re.fullmatch(r"[0-9a-f]{40}", weights.git_blob_id)
        assert re.fullmatch(r"https://\S+/checkpoints/[\w-]+\.pth", weights.url)
        assert weights.licence == "MIT"
        assert "arxiv.org" in weights.citation
        if weights.name != "hybrid-byols-cvt-2048":
            assert re.fullmatch(r"[0-9a-f]{64}", weights.sha256 or "")
            # A digit too few or too many would have every download refused.
            n_numbers = sum(torch.Size(entry["shape"]).numel() for entry in facts["state_dict"])
            assert 1 < (weights.n_bytes or 0) / (4 * n_numbers) < 1.01


@needs_the_published_file
def test_the_published_file_is_verified_and_loaded(work: Path) -> None:
    (weights,) = (weights for weights in PUBLISHED if weights.file_name == PUBLISHED_512.name)
    folder = work / "checkpoints"
    folder.mkdir()
    shutil.copy(PUBLISHED_512, folder)
    model = load_model("byols-audiontt-512", "default", offline=True)
    assert (model.embedding_size, model.source) == (512, PUBLISHED_512.name)
    audio, as_recommended = torch.rand(1, 8000) - 0.5, load_model(PUBLISHED_512, normalization=(-6, 5))
    torch.testing.assert_close(model(audio), as_recommended(audio), rtol=0, atol=0)
    data = bytearray(PUBLISHED_512.read_bytes())
    data[-1] ^= 1
    (folder / PUBLISHED_512.name).write_bytes(data)
    assert f"expected {weights.sha256}" in (mismatch(folder / PUBLISHED_512.name, weights) or "")


def test_the_blob_id_counts_where_the_sha256_agrees(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    weights = replace(published_at("", DATA), git_blob_id="0" * 40)
    assert "git blob id" in (mismatch(tmp_path / "file", weights) or "")


# From a name to a file


def test_a_name_is_downloaded_once(server: Server, cached: Path) -> None:
    model = load_model(NAME, "default")
    assert (model.embedding_size, model.source) == (8, FILE_NAME)
    assert read_checkpoint(NAME, offline=True).path == cached
    assert cached.read_bytes() == DATA
    assert [path.name for path in cached.parent.iterdir()] == [FILE_NAME]
    assert server.paths == [f"/{FILE_NAME}"]
    Path("new").touch()
    assert cached.stat().st_mode == Path("new").stat().st_mode


def test_published_weights_have_statistics_by_name_and_none_by_path(
    server: Server, cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_model(NAME).resolved_normalization == "clip"  # nothing is recommended
    recommended = replace(
        registry.PUBLISHED[0], statistics=Statistics(-6.0, 5.0), statistics_source="a measurement"
    )
    monkeypatch.setattr(registry, "PUBLISHED", (recommended,))
    model = load_model(NAME)
    assert model.resolved_normalization == model.statistics == (-6.0, 5.0)
    assert load_model(NAME, normalization="clip").resolved_normalization == "clip"
    assert load_model(cached).resolved_normalization == "clip"
    assert run(capsys, "convert", NAME, "out.safetensors")[0] == EXIT_OK
    assert load_model("out.safetensors").statistics == (-6.0, 5.0)
    assert "mean=-6.0, std=5.0" in run(capsys, "info", NAME)[1]


def test_only_one_set_of_statistics_is_known_and_it_has_a_source() -> None:
    known = {weights.name: weights.statistics for weights in PUBLISHED if weights.statistics is not None}
    assert known == {"byols-audiontt-512": (-6.0, 5.0)}
    for weights in PUBLISHED:
        assert (weights.statistics is None) == (weights.statistics_source is None)


def test_a_contradicting_encoder_is_refused_before_the_download(server: Server) -> None:
    with pytest.raises(CheckpointError, match=r"tiny-8 holds .*'default', but .* says 'cvt'"):
        load_model(NAME, "cvt")
    with pytest.raises(InvalidInputError, match="unknown model_name"):
        load_model(NAME, "convt")
    assert not server.paths


def test_a_file_goes_before_a_name_and_a_folder_does_not(server: Server) -> None:
    Path(NAME).mkdir()
    assert load_model(NAME).embedding_size == 8
    Path(NAME).rmdir()
    save_checkpoint(create_model(d=9), "x.safetensors").rename(NAME)
    assert load_model(NAME).embedding_size == 9
    with pytest.raises(CheckpointError, match="model_name says 'cvt'"):
        load_model(NAME, "cvt")


def test_bundled_weights_have_names(bundle: Callable[..., Path], server: Server) -> None:
    with pytest.raises(CheckpointNotFoundError, match=rf"{DEFAULT_NAME} does not exist.*serab-byols list"):
        load_model()
    bundle("another-8.5", 10)
    bundle(DEFAULT_NAME, 11)
    bundle(NAME, 12)
    assert list(registry.bundled()) == [DEFAULT_NAME, "another-8.5"]  # a published name is not for others
    assert load_model(NAME).embedding_size == 8
    assert load_model("another-8.5", "default", offline=True).embedding_size == 10
    assert load_model(DEFAULT_NAME).source == load_model().source == f"{DEFAULT_NAME}.safetensors"
    bundle(DEFAULT_NAME, 9, folder="wheel")  # the first folder wins
    assert load_model().embedding_size == load_model("", "default").embedding_size == 9
    with pytest.raises(CheckpointError, match=r"'default'.*'cvt'"):
        load_model("another-8.5", "cvt")


def test_the_name_of_an_encoder_loads_its_bundled_weights(
    bundle: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: Server,
) -> None:
    bundle(DEFAULT_NAME, 9)
    save_checkpoint(create_model("cvt"), tmp_path / "tree" / "small-cvt.safetensors")
    monkeypatch.delitem(registry.DEFAULT_WEIGHTS, "cvt")
    with pytest.raises(CheckpointNotFoundError, match="no bundled weights of the encoder 'cvt', only"):
        load_model(model_name="cvt")
    monkeypatch.setitem(registry.DEFAULT_WEIGHTS, "cvt", "small-cvt")
    for model in (load_model(model_name="cvt", offline=True), load_model("", "cvt"), load_model("small-cvt")):
        assert (model.encoder.name, model.embedding_size) == ("cvt", 2048)
        assert "weights: small-cvt.safetensors" in repr(model)
    assert load_model().embedding_size == load_model(model_name="default").embedding_size == 9
    rows = listed(capsys)
    assert [name for name, row in rows.items() if row["default_of_encoder"]] == [DEFAULT_NAME, "small-cvt"]
    assert "small-cvt (default of cvt)  " in run(capsys, "list")[1]
    (tmp_path / "tree" / "small-cvt.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"small-cvt does not exist.*serab-byols list"):
        load_model(model_name="cvt")
    assert not server.paths


def test_an_encoder_without_bundled_weights_names_what_there_is() -> None:
    with pytest.raises(CheckpointNotFoundError) as raised:
        load_model(model_name="resnetish34")
    for words in (
        f"{DEFAULT_NAME} ('default')",
        "load_model('byols-resnetish34-2048') downloads",
        "create_model('resnetish34')",
    ):
        assert words in str(raised.value)
    with pytest.raises(CheckpointNotFoundError) as raised:
        load_model(model_name="clstm")  # of which nothing was published
    assert "downloads" not in str(raised.value)


@pytest.mark.parametrize("folder", ["wheel", "tree", "work/checkpoints"])
def test_a_file_in_checkpoints_is_verified_and_used(folder: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / folder / FILE_NAME
    path.write_bytes(DATA)
    assert read_checkpoint(NAME).path.resolve() == path
    path.write_bytes(OTHER)
    with pytest.raises(CheckpointError, match=r"is not the published file: its sha256 is .*Delete it"):
        load_model(NAME)
    assert not server.paths
    path.unlink()
    load_model(NAME)
    assert len(server.paths) == 1


@pytest.mark.parametrize(
    ("folder", "quoted"), [("", "."), ("checkpoints/", "checkpoints"), ("a b/", "'a b'")]
)
def test_the_path_of_a_published_file_says_how_to_get_it(folder: str, quoted: str) -> None:
    """As the published documentation loads it."""
    with pytest.raises(CheckpointNotFoundError) as raised:
        load_model(f"{folder}{PUBLISHED[0].file_name}", "default")
    assert "does not exist" in str(raised.value)
    assert f"serab-byols download byols-audiontt-2048 -o {quoted}." in str(raised.value)
    assert 'load_model("byols-audiontt-2048")' in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("byols-audiont-2048", r"no weights named .*; did you mean 'byols-audiontt-2048'\?"),
        ("byols_resnetish34", r"no weights named .*; did you mean 'byols-resnetish34-2048'\?"),
        ("mine8", r"no weights named .*; did you mean 'mine-8'\?"),
        ("wav2vec", r"no weights named 'wav2vec'\. `serab-byols list` shows the names$"),
        ("missing.pth", "does not exist$"),
        ("./byols-audiontt-2048", "does not exist$"),
    ],
)
def test_what_is_neither_a_file_nor_a_name(typed: str, message: str, bundle: Callable[..., Path]) -> None:
    bundle("mine-8")
    with pytest.raises(CheckpointNotFoundError, match=message):
        load_model(typed)


# The cache, and offline mode


def test_the_cache_folder_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    assert cache_folder("mine") == Path("mine")
    monkeypatch.setenv("SERAB_BYOLS_CACHE", "~/w")
    assert cache_folder() == Path.home() / "w"
    monkeypatch.delenv("SERAB_BYOLS_CACHE")
    assert cache_folder() == pooch.os_cache("serab_byols")
    with pytest.raises(InvalidInputError, match="set SERAB_BYOLS_CACHE"):
        cache_folder("~nobody-of-this-name/cache")


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), (" YES ", True), ("perhaps", True), ("0", False), ("", False)]
)
def test_the_environment_chooses_offline_mode(
    value: str, offline: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERAB_BYOLS_OFFLINE", value)
    assert weights_cache.is_offline() == offline
    with pytest.raises(CheckpointNotFoundError, match=r"tiny-8 is not in .*offline mode.*checkpoints/"):
        load_model(NAME, offline=True)
    assert not server.paths
    assert load_model(NAME, cache_dir="mine", offline=False).embedding_size == 8
    assert read_checkpoint(NAME, cache_dir="mine", offline=True).path == Path("mine") / FILE_NAME


def test_a_damaged_file_in_the_cache_is_replaced_and_never_loaded(server: Server, cached: Path) -> None:
    for damaged in (OTHER, DATA[:-1], b""):  # the first of which would load
        load_model(NAME)
        cached.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is damaged: its .* is \w+, expected \w+; and offline"):
            load_model(NAME, offline=True)
        load_model(NAME)
        assert cached.read_bytes() == DATA
    cached.write_bytes(OTHER)
    server.answers = [status(404)]
    with pytest.raises(DownloadError, match="404"):
        load_model(NAME)


def test_a_cache_that_cannot_be_written(server: Server, cached: Path) -> None:
    cached.parent.touch()
    with pytest.raises(DownloadError, match=rf"to {cached.parent}: .*File exists.*SERAB_BYOLS_CACHE"):
        load_model(NAME)
    cached.parent.unlink()
    cached.mkdir(parents=True)
    with pytest.raises(DownloadError, match=rf"to {cached.parent}: .*is a folder.*SERAB_BYOLS_CACHE"):
        load_model(NAME)


# Downloads


@pytest.mark.parametrize("first", [whole(n_sent=1000), whole(n_sent=0), status(503), stalled])
def test_a_failed_download_is_tried_again(
    first: Answer, server: Server, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_cache, "TIMEOUT_S", 0.2)
    server.answers = [first, first, whole()]
    load_model(NAME)
    assert cached.read_bytes() == DATA
    assert len(server.paths) == 3


@pytest.mark.parametrize(
    ("answer", "reason"), [(status(404), "404"), (status(503), "503"), (whole(n_sent=100), "")]
)
def test_a_lasting_failure_is_an_error_that_says_what_to_do(
    answer: Answer, reason: str, server: Server
) -> None:
    server.answers = [answer]
    message = failure(server)
    assert f"tiny-8 could not be downloaded from {server.url}/{FILE_NAME} to {cache_folder()}: " in message
    assert reason in message
    assert "HTTPS_PROXY" in message
    assert "checkpoints/" in message
    assert len(server.paths) == 3


def test_no_server(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "refused" in failure(server)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("data", [OTHER, DATA + b"more", b"<html>Please log in</html>"])
def test_other_bytes_are_deleted(data: bytes, sized: bool, server: Server) -> None:
    server.answers = [whole(data)]
    message = failure(server, sized=sized)
    assert re.search(r"not the published file: its .* is \w+, expected \w+", message)
    assert len(server.paths) == 1


def test_redirects_are_followed(server: Server, cached: Path) -> None:
    server.answers = [redirect(f"{server.url}/elsewhere"), redirect("/there"), whole()]
    load_model(NAME)
    assert server.paths == [f"/{FILE_NAME}", "/elsewhere", "/there"]


@pytest.mark.parametrize("to", ["ftp://127.0.0.1/w", "file:///etc/passwd", "data:,x", "http://["])
def test_redirects_stay_with_http(to: str, server: Server) -> None:
    server.answers = [redirect(to)]
    assert to.partition(":")[0] in failure(server)
    assert set(server.paths) == {f"/{FILE_NAME}"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_on_a_terminal_only(
    server: Server, cached: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(NAME)
    assert capsys.readouterr() == ("", "")
    for stderr in (Terminal(), None):  # None in a program without a console
        cached.unlink()
        monkeypatch.setattr(sys, "stderr", stderr)
        load_model(NAME)
        assert stderr is None or "100%" in stderr.getvalue()
    assert capsys.readouterr().out == ""


FETCH = """
import json, sys
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.checkpoint.weights_cache import find_or_download
weights, cache = json.loads(sys.argv[1])
print(find_or_download(PublishedWeights(**weights), cache))
"""


def test_two_processes_download_at_once_and_one_is_killed(server: Server, cached: Path) -> None:
    server.answers = [stalled, whole()]
    arguments = json.dumps([asdict(registry.PUBLISHED[0]), str(cached.parent)])
    with subprocess.Popen([sys.executable, "-c", FETCH, arguments]) as process:
        try:
            assert server.half_sent.wait(60)
            (part,) = cached.parent.iterdir()
            assert part.name != FILE_NAME
            assert load_model(NAME).embedding_size == 8
        finally:
            process.kill()
    assert cached.read_bytes() == DATA
    assert load_model(NAME, offline=True).embedding_size == 8


# The commands


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    exit_status = main([str(word) for word in words])
    return (exit_status, *capsys.readouterr())


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, dict[str, object]]:
    exit_status, out, err = run(capsys, "list", "--json", *words)
    assert (exit_status, err) == (EXIT_OK, "")
    return {row["name"]: row for row in json.loads(out)}


def test_list_for_programs(
    server: Server, bundle: Callable[..., Path], cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle(DEFAULT_NAME, 9, licence="CC0", citation=["odd"])
    rows = listed(capsys)
    assert rows[DEFAULT_NAME] == {
        "name": DEFAULT_NAME,
        "encoder": "default",
        "embedding_size": 9,
        "bytes": path.stat().st_size,
        "normalization": None,
        "licence": "CC0",
        "citation": "['odd']",
        "present": True,
        "path": str(path),
        "default": True,
        "default_of_encoder": True,
    }
    facts = asdict(registry.PUBLISHED[0])
    renamed = {"normalization": "statistics", "normalization_source": "statistics_source"}
    for key, field in {"bytes": "n_bytes", "file": "file_name", **renamed}.items():
        facts[key] = facts.pop(field)
    facts["url"] = f"{facts.pop('folder_url')}/{FILE_NAME}"
    absent = {**facts, "present": False, "path": None, "default": False, "default_of_encoder": False}
    assert rows[NAME] == absent
    load_model(NAME)
    assert listed(capsys)[NAME] == {**absent, "present": True, "path": str(cached)}
    assert listed(capsys, "--cache-dir", "other")[NAME] == absent
    cached.write_bytes(DATA[:-1])
    assert listed(capsys)[NAME] == absent
    Path("checkpoints").mkdir()
    Path("checkpoints", FILE_NAME).write_bytes(DATA)
    assert listed(capsys)[NAME]["path"] == f"checkpoints/{FILE_NAME}"


def test_list_for_people(bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    damaged, path = bundle("damaged"), bundle(DEFAULT_NAME, 9)
    damaged.write_bytes(damaged.read_bytes()[:-10])
    exit_status, out, err = run(capsys, "list")
    assert exit_status == EXIT_OK
    assert "damaged.safetensors" in err
    assert out.splitlines()[1].startswith(f"{DEFAULT_NAME} (default)  ")
    assert out.count("(default)") == 1
    rows = [line.split(maxsplit=6) for line in out.replace(" (default)", "").splitlines()]
    assert rows[:3] == [
        ["NAME", "ENCODER", "D", "MB", "MEAN,STD", "LICENCE", "WHERE"],
        [DEFAULT_NAME, "default", "9", f"{path.stat().st_size / 1e6:.1f}", "clip", "-", str(path)],
        [
            *("byols-audiontt-2048", "default", "2048", "21.3", "clip", "MIT"),
            f"serab-byols download {PUBLISHED[0].name}",
        ],
    ]
    assert rows[4][:6] == ["hybrid-byols-cvt-2048", "cvt", "2048", "?", "clip", "MIT"]
    assert rows[5][:6] == ["byols-audiontt-512", "default", "512", "2.4", "-6,5", "MIT"]
    assert len(rows) == 6


def test_download_prints_the_path(server: Server, cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run(capsys, "download", NAME) == (EXIT_OK, f"{cached}\n", "")
    assert len(server.paths) == 1


@pytest.mark.parametrize("option", ["-o", "--cache-dir"])
def test_download_takes_what_is_here(option: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    Path("checkpoints").mkdir()
    Path("checkpoints", FILE_NAME).write_bytes(DATA)
    assert run(capsys, "download", NAME) == (EXIT_OK, f"checkpoints/{FILE_NAME}\n", "")
    assert run(capsys, "download", NAME, option, "a/copy") == (EXIT_OK, f"a/copy/{FILE_NAME}\n", "")
    assert Path("a/copy", FILE_NAME).read_bytes() == DATA
    assert not server.paths


def test_the_command_of_the_error_makes_the_same_call_work(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"check points/{FILE_NAME}"
    with pytest.raises(CheckpointNotFoundError) as raised:
        load_model(path, "default")
    command = re.search(r"serab-byols (download .*)\. Or load it", str(raised.value))
    assert command is not None
    for _ in range(2):
        assert run(capsys, *shlex.split(command[1])) == (EXIT_OK, f"{path}\n", "")
    assert load_model(path, "default").embedding_size == 8
    assert os.listdir("check points") == [FILE_NAME]
    assert len(server.paths) == 1


def test_a_failed_download_is_one_line_and_status_1(
    server: Server, bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle("mine")
    server.answers = [status(404)]
    exit_status, out, err = run(capsys, "download", NAME, "mine", "-o", "there")
    assert exit_status == EXIT_BAD_FILES
    assert err.startswith(f"serab-byols: error: {NAME} could not be downloaded from {server.url}")
    assert err.count("\n") == 1
    assert out == "there/mine.safetensors\n"  # what can be had is
    assert os.listdir("there") == [path.name]
    assert Path("there", path.name).read_bytes() == path.read_bytes()


def test_an_unknown_name_downloads_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    exit_status, out, err = run(capsys, "download", NAME, "tiny8")
    assert (exit_status, out) == (EXIT_BAD_FILES, "")
    assert "no weights named 'tiny8'; did you mean 'tiny-8'?" in err
    assert not server.paths


def test_info_and_convert_take_names(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    exit_status, out, _ = run(capsys, "info", NAME, "--json")
    assert exit_status == EXIT_OK
    assert json.loads(out)["bytes"] == len(DATA)
    assert run(capsys, "convert", NAME, "out.safetensors")[0] == EXIT_OK
    assert load_model("out.safetensors").training_facts == {"converted_from": FILE_NAME}


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
    assert len(server.paths) == 2  # what is on this machine is not downloaded again
