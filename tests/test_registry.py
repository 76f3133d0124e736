"""Names of weights: the facts, the files they lead to, and what is said where there is none."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import weights_server as ways
from parity_data import MANIFEST, PUBLISHED_512, ROOT
from weights_server import FILE_NAME, NAME, Server, state_dict_bytes, weights_of

from serab_byols import create_model, load_model, save_checkpoint
from serab_byols.checkpoint import cache, read_checkpoint, registry, resolve_checkpoint
from serab_byols.checkpoint.registry import DEFAULT_CHECKPOINT, DEFAULT_NAME, PUBLISHED
from serab_byols.checkpoint.verify import mismatch
from serab_byols.encoders import ENCODERS
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, DownloadError, InvalidInputError

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = state_dict_bytes()
SEED_PATH = "checkpoints/default2048_BYOLAs64x96-2105311814-e100-bs256-lr0003-rs42.pth"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what this machine's folders hold nor what its environment says."""
    for name in ("SERAB_BYOLS_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SERAB_BYOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(registry, "CHECKPOINT_FOLDERS", (tmp_path / "wheel", tmp_path / "tree"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Publishes one file, under the only name that is published."""
    with ways.running(DATA) as told:
        monkeypatch.setattr(registry, "PUBLISHED", (weights_of(DATA, told.url),))
        yield told


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, d: int = 8, folder: str = "tree", **facts: object) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / f"{name}.safetensors"
        return save_checkpoint(create_model(d=d), path, training_facts=facts)

    return make


# The facts


def test_the_published_names() -> None:
    assert [weights.name for weights in PUBLISHED] == [
        "byols-audiontt-2048",
        "byols-resnetish34-2048",
        "hybrid-byols-cvt-2048",
        "byols-audiontt-512",
    ]
    assert len({weights.file_name for weights in PUBLISHED}) == len(PUBLISHED)
    assert len({weights.git_blob_id for weights in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize("weights", PUBLISHED, ids=lambda weights: weights.name)
def test_the_facts_are_well_formed(weights: registry.PublishedWeights) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", weights.git_blob_id)
    assert (weights.sha256 is None) == (weights.n_bytes is None)
    assert weights.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert weights.url.startswith("https://")
    assert weights.url.endswith(f"/checkpoints/{weights.file_name}")
    # A name leads to one file of one folder, whatever it is joined to.
    assert Path(weights.file_name).name == weights.file_name
    assert weights.file_name.endswith(".pth")
    model = create_model(weights.encoder, **({"d": weights.embedding_size} if "tt" in weights.name else {}))
    assert model.embedding_size == weights.embedding_size
    assert weights.encoder in ENCODERS
    assert weights.licence == "MIT"
    assert "arxiv.org" in weights.citation


def test_the_sizes_are_those_of_such_state_dicts() -> None:
    """A digit too few or too many would have every download refused."""
    n_bytes = {weights.name: weights.n_bytes for weights in PUBLISHED}
    for name, variant in [("byols-audiontt-2048", "default2048"), ("byols-resnetish34-2048", "resnetish34")]:
        shapes = [entry["shape"] for entry in MANIFEST["encoders"][variant]["state_dict"]]
        n_numbers = sum(torch.Size(shape).numel() for shape in shapes)
        assert 1 < n_bytes[name] / (4 * n_numbers) < 1.01


@pytest.mark.skipif(not PUBLISHED_512.is_file(), reason="the published weights are not here")
def test_the_published_file_is_told_from_all_others(tmp_path: Path) -> None:
    weights = registry.published("byols-audiontt-512")
    assert weights is not None
    assert weights.file_name == PUBLISHED_512.name
    assert mismatch(PUBLISHED_512, weights) is None
    data = bytearray(PUBLISHED_512.read_bytes())
    data[-1] ^= 1
    (tmp_path / "other").write_bytes(data)
    got = hashlib.sha256(data).hexdigest()
    assert mismatch(tmp_path / "other", weights) == f"its sha256 is {got}, expected {weights.sha256}"
    (tmp_path / "other").write_bytes(data[:-1])
    assert mismatch(tmp_path / "other", weights) == "it has 2,409,433 bytes, expected 2,409,434"


@pytest.mark.skipif(not PUBLISHED_512.is_file(), reason="the published weights are not here")
@pytest.mark.parametrize("folder", ["wheel", "tree", "work/checkpoints"])
def test_the_published_file_is_found_in_checkpoints(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    shutil.copy(PUBLISHED_512, tmp_path / folder)
    model = load_model("byols-audiontt-512", "default", offline=True)
    assert model.embedding_size == 512
    assert model.source == PUBLISHED_512.name
    audio = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(audio), load_model(PUBLISHED_512)(audio), rtol=0, atol=0)
    assert not (tmp_path / "cache").exists()


# By name


def test_a_name_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    model = load_model(NAME, "default")
    assert (model.embedding_size, model.source) == (8, FILE_NAME)
    assert load_model(NAME, offline=True).embedding_size == 8
    assert read_checkpoint(NAME).path == resolve_checkpoint(NAME) == tmp_path / "cache" / FILE_NAME
    assert len(server.requests) == 1


def test_options_go_before_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERAB_BYOLS_OFFLINE", "1")
    with pytest.raises(CheckpointNotFoundError, match="offline"):
        load_model(NAME)
    load_model(NAME, cache_dir=str(tmp_path / "mine"), offline=False)
    assert (tmp_path / "mine" / FILE_NAME).is_file()
    assert not (tmp_path / "cache").exists()
    assert read_checkpoint(NAME, cache_dir=tmp_path / "mine").config == {"d": 8}


def test_a_contradicting_encoder_is_refused_before_the_download(server: Server) -> None:
    with pytest.raises(CheckpointError, match=r"tiny-8 holds .*'default', but .* says 'cvt'"):
        load_model(NAME, "cvt")
    with pytest.raises(InvalidInputError, match="unknown model_name"):
        load_model(NAME, "convt")
    assert not server.requests


def test_a_failed_download_loads_nothing(server: Server) -> None:
    server.answered(ways.with_data(state_dict_bytes(seed=1)))
    with pytest.raises(DownloadError, match="not the file that was published"):
        load_model(NAME)


def test_a_decayed_file_is_replaced_before_it_is_loaded(server: Server, tmp_path: Path) -> None:
    load_model(NAME)
    path = tmp_path / "cache" / FILE_NAME
    path.write_bytes(state_dict_bytes(seed=1))  # which loads well, but is another's
    model = load_model(NAME)
    assert path.read_bytes() == DATA
    torch.save(model.encoder.state_dict(), tmp_path / "again.pth")
    expected = torch.load(path, weights_only=True)
    assert all(torch.equal(expected[key], tensor) for key, tensor in model.encoder.state_dict().items())


def test_a_file_in_checkpoints_is_verified(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "work" / "checkpoints" / FILE_NAME
    path.parent.mkdir()
    path.write_bytes(DATA)
    assert resolve_checkpoint(NAME) == Path("checkpoints") / FILE_NAME
    path.write_bytes(state_dict_bytes(seed=1))
    with pytest.raises(CheckpointError, match=r"is not the published file: its sha256 is .*Delete it"):
        load_model(NAME)
    path.unlink()
    load_model(NAME)
    assert len(server.requests) == 1


def test_a_file_goes_before_a_name_and_a_folder_does_not(server: Server, tmp_path: Path) -> None:
    Path(NAME).mkdir()
    assert load_model(NAME).embedding_size == 8
    Path(NAME).rmdir()
    save_checkpoint(create_model(d=9), "x.safetensors").rename(NAME)
    assert load_model(NAME).embedding_size == 9
    with pytest.raises(CheckpointError, match="model_name says 'cvt'"):
        load_model(NAME, "cvt")


def test_bundled_names(bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = bundle("mine-8")
    bundle("mine-9", 9, "wheel")
    bundle("mine-8.5", 10)
    assert load_model("mine-8").source == "mine-8.safetensors"
    assert load_model("mine-9", "default", offline=True).embedding_size == 9
    assert load_model("mine-8.5").embedding_size == 10
    assert resolve_checkpoint("mine-8") == path
    bundle("mine-8", 11, "wheel")  # the first folder wins
    assert load_model("mine-8").embedding_size == 11
    assert registry.names()[:3] == ["mine-8", "mine-9", "mine-8.5"]
    with pytest.raises(CheckpointError, match=r"'default'.*'cvt'"):
        load_model("mine-8", "cvt")


def test_a_bundled_file_does_not_take_a_published_name(bundle: Callable[..., Path], server: Server) -> None:
    bundle(NAME, 9)
    assert load_model(NAME).embedding_size == 8
    assert registry.names() == [NAME]


def test_a_bundled_file_says_what_it_is(bundle: Callable[..., Path], tmp_path: Path) -> None:
    weights = registry.describe_bundled(bundle("mine", 9, licence="CC0", citation=["odd"]))
    assert (weights.name, weights.encoder, weights.embedding_size) == ("mine", "default", 9)
    assert (weights.licence, weights.citation) == ("CC0", "['odd']")
    assert registry.describe_bundled(bundle("bare")).licence is None


def test_the_default_has_a_name_and_is_named_first(bundle: Callable[..., Path]) -> None:
    assert Path(DEFAULT_CHECKPOINT).stem == DEFAULT_NAME
    with pytest.raises(CheckpointNotFoundError, match="serab-byols list"):
        load_model(DEFAULT_NAME)
    with pytest.raises(CheckpointNotFoundError, match="no default weights"):
        load_model()
    bundle("another")
    bundle(DEFAULT_NAME, 9)
    assert load_model(DEFAULT_NAME).embedding_size == load_model().embedding_size == 9
    assert registry.names()[:2] == [DEFAULT_NAME, "another"]


# What is not there


def test_the_path_of_a_published_file_says_how_to_get_it() -> None:
    """As the published documentation loads it."""
    with pytest.raises(CheckpointNotFoundError) as raised:
        load_model(SEED_PATH, "default")
    assert f"checkpoint {SEED_PATH} does not exist" in str(raised.value)
    assert "serab-byols download byols-audiontt-2048 -o checkpoints." in str(raised.value)
    assert 'load_model("byols-audiontt-2048")' in str(raised.value)


@pytest.mark.parametrize("folder", ["", "a b/", "/nowhere/"])
def test_the_command_names_the_folder(folder: str, server: Server) -> None:
    with pytest.raises(CheckpointNotFoundError) as raised:
        read_checkpoint(f"{folder}{FILE_NAME}")
    quoted = {"": ".", "a b/": "'a b'", "/nowhere/": "/nowhere"}[folder]
    assert f"serab-byols download tiny-8 -o {quoted}." in str(raised.value)
    assert not server.requests


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("byols-audiont-2048", "byols-audiontt-2048"),
        ("byols_resnetish34", "byols-resnetish34-2048"),
        ("hybrid-byols-cvt", "hybrid-byols-cvt-2048"),
        ("mine8", "mine-8"),
    ],
)
def test_a_misspelt_name(typed: str, meant: str, bundle: Callable[..., Path]) -> None:
    bundle("mine-8")
    with pytest.raises(CheckpointNotFoundError, match=rf"named '{typed}'; did you mean '{meant}'\?"):
        load_model(typed)


def test_a_name_like_no_other() -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no weights named 'wav2vec'\. `serab-byols list`"):
        load_model("wav2vec")


@pytest.mark.parametrize("path", ["missing.pth", "folder/byols-audiontt-2048", "./byols-audiontt-2048"])
def test_a_path_is_not_taken_for_a_name(path: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"does not exist$"):
        load_model(path)


# The cache folder


def test_the_cache_folder_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_folder() == tmp_path / "cache"
    assert cache.cache_folder("mine") == Path("mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache.cache_folder("~/mine") == tmp_path / "mine"
    monkeypatch.setenv("SERAB_BYOLS_CACHE", "~/w")
    assert cache.cache_folder() == tmp_path / "w"


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "home/.cache/serab_byols"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache/serab_byols"),
        ("linux", {"XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg/serab_byols"),
        ("darwin", {"XDG_CACHE_HOME": "{tmp}/xdg"}, "home/Library/Caches/serab_byols"),
        ("win32", {"LOCALAPPDATA": "{tmp}/local"}, "local/serab_byols"),
        ("win32", {}, "home/AppData/Local/serab_byols"),
    ],
)
def test_the_users_cache(
    platform: str,
    environment: dict[str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SERAB_BYOLS_CACHE")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert cache.cache_folder() == tmp_path / expected


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SERAB_BYOLS_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InvalidInputError, match="set SERAB_BYOLS_CACHE"):
        cache.cache_folder()


# The weights that this repository carries


@pytest.mark.parametrize("path", sorted((ROOT / "checkpoints").glob("*.safetensors")), ids=os.path.basename)
def test_the_checkpoints_of_this_repository_say_what_they_are(path: Path) -> None:
    weights = registry.describe_bundled(path)
    assert weights.licence
    assert registry.published(weights.name) is None
