"""Models on the Hugging Face Hub: folders, a stand-in endpoint on this machine, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
import torch
from hub_server import Hub

import serab_byols
from serab_byols import create_model, embed_file, get_scene_embeddings, load_model, save_checkpoint
from serab_byols.checkpoint import read_checkpoint
from serab_byols.checkpoint.hub_download import HubAddress, is_hub_address, parse_hub_address
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES
from serab_byols.corpus.provenance import describe_model
from serab_byols.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DownloadError,
    InvalidInputError,
    MissingExtraError,
)
from serab_byols.model import ByolsModel

huggingface_hub = pytest.importorskip("huggingface_hub")
from huggingface_hub import ModelCard, ModelHubMixin, constants, file_download  # noqa: E402

from serab_byols.integrations.hub import ByolsHubModel  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

REPO = "someone/speech"
FACTS = {"licence": "MIT", "data": "two clips; ```fences``` and ünïcode"}
AUDIO = torch.sin(torch.arange(12000) / 7.0)[None]


@pytest.fixture(scope="module")
def model() -> ByolsModel:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        made = create_model(d=8)
    return ByolsModel(made.encoder, made.frontend, statistics=(-6, 5), training_facts=FACTS).eval()


@pytest.fixture(scope="module")
def checkpoint(model: ByolsModel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_checkpoint(model, tmp_path_factory.mktemp("hub") / "a.safetensors").read_bytes()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The endpoint in the place of the Hub, and a cache of the test's own."""
    for name in ("HF_TOKEN", "SERAB_BYOLS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with hub_server.running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        set_download_url(running.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def set_download_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before 1 import the template by name."""
    for module in (constants, file_download):
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def published(hub: Hub, checkpoint: bytes) -> str:
    """The commit of a repository with one checkpoint."""
    return hub.commit(REPO, {"model.safetensors": checkpoint})


# Addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b", HubAddress("a/b")),
        ("hf://a/b/", HubAddress("a/b")),
        ("hf://a-1/b_c.d@v1.2", HubAddress("a-1/b_c.d", "v1.2")),
        ("hf://a/b@refs/pr/3", HubAddress("a/b", "refs/pr/3")),
        ("hf://a/b@refs%2Fpr%2F3", HubAddress("a/b", "refs/pr/3")),
        ("hf://a/b@main/x/y.safetensors", HubAddress("a/b", "main", "x/y.safetensors")),
        ("hf://a/b/y.safetensors", HubAddress("a/b", None, "y.safetensors")),
    ],
)
def test_addresses(text: str, expected: HubAddress) -> None:
    assert is_hub_address(text)
    assert parse_hub_address(text) == expected
    assert parse_hub_address(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://a",
        "hf://a/b@",
        "hf://a/b/pytorch_model.bin",
        "hf://a/b/c",
        "hf://a/b/../c.safetensors",
        "hf://datasets/a",
        "hf://a/b@x@y",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="hf://owner/name"):
        load_model(text)


@pytest.mark.parametrize("name", ["../up", "a/b--c", "a/..", "-/b"])
def test_names_that_the_hub_does_not_allow(hub: Hub, name: str) -> None:
    with pytest.raises(InvalidInputError, match="Hub"):
        load_model(f"hf://{name}")
    assert hub.requests == []


# Loading


def test_load_model(hub: Hub, published: str, model: ByolsModel) -> None:
    loaded = load_model(f"hf://{REPO}")
    assert loaded.source == f"hf://{REPO}@{published}"
    assert describe_model(loaded)["weights"] == loaded.source
    assert loaded.statistics == model.statistics
    assert loaded.training_facts == FACTS
    assert not loaded.training
    torch.testing.assert_close(
        get_scene_embeddings(AUDIO, loaded), get_scene_embeddings(AUDIO, model), rtol=0, atol=0
    )
    assert read_checkpoint(f"hf://{REPO}").path.name == "model.safetensors"


def test_revisions_and_files(hub: Hub, published: str, tmp_path: Path) -> None:
    other = save_checkpoint(create_model(d=16), tmp_path / "b.safetensors").read_bytes()
    new = hub.commit(REPO, {"model.safetensors": other, "small/eight.safetensors": hub_file(hub, published)})
    hub.refs[REPO]["v1"] = published
    hub.refs[REPO]["refs/pr/1"] = published
    assert load_model(f"hf://{REPO}").embedding_size == 16
    for revision in ("v1", published, "refs/pr/1"):
        loaded = load_model(f"hf://{REPO}@{revision}")
        assert (loaded.embedding_size, loaded.source) == (8, f"hf://{REPO}@{published}")
    named = load_model(f"hf://{REPO}@main/small/eight.safetensors")
    assert named.source == f"hf://{REPO}@{new}/small/eight.safetensors"
    assert named.embedding_size == 8


def hub_file(hub: Hub, commit: str) -> bytes:
    return hub.files[REPO][commit]["model.safetensors"]


def test_the_cache_is_the_hubs_own(hub: Hub, published: str, tmp_path: Path) -> None:
    load_model(f"hf://{REPO}")
    n_downloads = sum(request.startswith("GET") for request in hub.requests)
    load_model(f"hf://{REPO}")
    assert sum(request.startswith("GET") for request in hub.requests) == n_downloads == 1
    assert huggingface_hub.try_to_load_from_cache(REPO, "model.safetensors") is not None
    load_model(f"hf://{REPO}", cache_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "models--someone--speech").is_dir()


@pytest.mark.parametrize("how", ["offline=True", "SERAB_BYOLS_OFFLINE", "HF_HUB_OFFLINE", "commit"])
def test_offline(hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    load_model(f"hf://{REPO}")
    hub.requests.clear()
    if how == "SERAB_BYOLS_OFFLINE":
        monkeypatch.setenv(how, "1")
    elif how == "HF_HUB_OFFLINE":
        if huggingface_hub.__version__.startswith("0."):
            pytest.skip("these versions heed it when they are imported")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = True if how == "offline=True" else None
    address = f"hf://{REPO}@{published}" if how == "commit" else f"hf://{REPO}"
    assert load_model(address, offline=offline).embedding_size == 8
    assert hub.requests == []
    if how != "commit":
        with pytest.raises(CheckpointNotFoundError, match=r"hf://a/b is not in the Hub's cache.*offline"):
            load_model("hf://a/b", offline=offline)
        assert hub.requests == []


def test_the_cached_file_serves_when_the_hub_is_down(
    hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(f"hf://{REPO}")
    hub.status = 503
    assert load_model(f"hf://{REPO}").embedding_size == 8


def test_a_wrong_model_name_is_seen(hub: Hub, published: str) -> None:
    with pytest.raises(CheckpointError, match=f"hf://{REPO} holds the encoder 'default'"):
        load_model(f"hf://{REPO}", "cvt")


# What goes wrong


def test_what_is_not_there(hub: Hub, published: str) -> None:
    with pytest.raises(
        CheckpointNotFoundError, match=r"no repository .*/no/body, or it is private.*auth login"
    ):
        load_model("hf://no/body")
    with pytest.raises(CheckpointNotFoundError, match="no revision 'v9'"):
        load_model(f"hf://{REPO}@v9")
    with pytest.raises(CheckpointNotFoundError, match=r"no file x\.safetensors"):
        load_model(f"hf://{REPO}/x.safetensors")
    hub.gated.add(REPO)
    with pytest.raises(DownloadError, match="gated"):
        load_model(f"hf://{REPO}")


def test_no_connection(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.1, raising=False)
    set_download_url("http://127.0.0.1:9", monkeypatch)
    no_pauses(monkeypatch)
    with pytest.raises(DownloadError, match=r"is not in the Hub's cache, and .* cannot be reached") as raised:
        load_model("hf://a/b")
    assert isinstance(raised.value, OSError)


def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client waits longer and longer between attempts."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def test_the_hub_is_down(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    no_pauses(monkeypatch)
    hub.status = 500
    with pytest.raises(DownloadError, match="cannot be reached"):
        load_model("hf://a/b")


def test_only_safetensors_is_opened(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even restricted unpickling: a state dict under the name of a checkpoint is refused."""
    torch.save(create_model(d=8).encoder.state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.pth").rename(tmp_path / "model.safetensors")
    hub.commit(REPO, {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    for load, place in [
        (load_model, f"hf://{REPO}"),
        (ByolsHubModel.from_pretrained, REPO),
        (ByolsHubModel.from_pretrained, tmp_path),
    ]:
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            load(place)


def test_damage_is_seen(hub: Hub, checkpoint: bytes) -> None:
    hub.commit(REPO, {"model.safetensors": checkpoint[:-100] + bytes(100)})
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(f"hf://{REPO}")
    hub.commit(REPO, {"model.safetensors": checkpoint[:1000]})
    with pytest.raises(CheckpointError):
        load_model(f"hf://{REPO}")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[hub\]'"):
        load_model("hf://a/b")
    monkeypatch.delitem(sys.modules, "serab_byols.integrations.hub")
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[hub\]'"):
        import serab_byols.integrations.hub  # noqa: F401


# The mixin


def test_a_folder(model: ByolsModel, tmp_path: Path) -> None:
    shared = ByolsHubModel(model)
    assert isinstance(shared, ModelHubMixin)
    shared.save_pretrained(tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"README.md", "model.safetensors"}
    loaded = ByolsHubModel.from_pretrained(tmp_path / "folder")
    by_path = load_model(tmp_path / "folder" / "model.safetensors")
    expected = get_scene_embeddings(AUDIO, model)
    for again in (shared, loaded, by_path):
        torch.testing.assert_close(get_scene_embeddings(AUDIO, again), expected, rtol=0, atol=0)
        assert (again.statistics, again.training_facts) == (model.statistics, FACTS)
    assert not loaded.training
    assert loaded.normalization == "auto"
    fixed = ByolsHubModel.from_pretrained(tmp_path / "folder", normalization="clip")
    assert fixed.resolved_normalization == "clip"
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "folder" / "model.safetensors"
    ).read_bytes()


def test_it_is_a_model_like_any(model: ByolsModel) -> None:
    shared = ByolsHubModel(model)
    assert shared.encoder is model.encoder
    assert shared(AUDIO).requires_grad
    assert shared.state_dict().keys() == model.state_dict().keys()
    assert repr(shared).startswith("ByolsHubModel(")
    clip = Path(__file__).parents[1] / "examples" / "clips" / "en_calm.flac"
    assert embed_file(clip, shared) == embed_file(clip, model)


def test_a_card_that_is_there_is_left_alone(model: ByolsModel, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    ByolsHubModel(model).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"holds no model\.safetensors"):
        ByolsHubModel.from_pretrained(tmp_path)


def test_the_card(model: ByolsModel, tmp_path: Path) -> None:
    ByolsHubModel(model).save_pretrained(tmp_path, model_card_kwargs={"language": ["en"]})
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "serab-byols"
    assert data["pipeline_tag"] == "feature-extraction"
    assert data["license"] == "mit"
    assert data["language"] == ["en"]
    assert {"audio", "speech", "default"} <= set(data["tags"])
    assert json.loads(card.text.partition("```json\n")[2].partition("\n```")[0]) == FACTS
    assert "mean -6, standard deviation 5" in card.text
    assert serab_byols.checkpoint.weights_sha256(model.encoder) in card.text
    assert "(8,)" in card.text
    assert "hf://OWNER/NAME" in card.text


def test_a_card_without_facts() -> None:
    card = ByolsHubModel(create_model(d=8)).generate_model_card(license="cc-by-4.0")
    assert card.data.license == "cc-by-4.0"
    assert "license" not in ByolsHubModel(create_model(d=8)).generate_model_card().data.to_dict()
    assert "none are stored" in card.text


def test_push_and_pull(hub: Hub, model: ByolsModel, tmp_path: Path) -> None:
    commit = ByolsHubModel(model).push_to_hub("me/pushed", token="hf_of_a_test")
    assert set(hub.files["me/pushed"][hub.refs["me/pushed"]["main"]]) == {"README.md", "model.safetensors"}
    assert hub.refs["me/pushed"]["main"] in commit.commit_url
    card = hub.files["me/pushed"][hub.refs["me/pushed"]["main"]]["README.md"].decode()
    assert 'load_model("hf://me/pushed")' in card
    expected = get_scene_embeddings(AUDIO, model)
    for loaded in (load_model("hf://me/pushed"), ByolsHubModel.from_pretrained("me/pushed")):
        torch.testing.assert_close(get_scene_embeddings(AUDIO, loaded), expected, rtol=0, atol=0)
    hub.requests.clear()
    assert ByolsHubModel.from_pretrained("me/pushed", local_files_only=True).embedding_size == 8
    assert hub.requests == []
    ByolsHubModel.from_pretrained("hf://me/pushed", revision="main", force_download=True)
    assert [request.partition(" ")[0] for request in hub.requests] == ["HEAD", "GET"]
    with pytest.raises(CheckpointNotFoundError, match="no revision"):
        ByolsHubModel.from_pretrained("me/pushed", revision="v7")


@pytest.mark.parametrize("name", ["neither-folder-nor-repository", "/no/such/folder"])
def test_neither_a_folder_nor_a_repository(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no folder .*, and it is not the owner/name"):
        ByolsHubModel.from_pretrained(name)


def test_the_command(hub: Hub, published: str, tmp_path: Path) -> None:
    """A process of its own, told of the endpoint as users do it."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-m", "serab_byols", "info", "--json", f"hf://{REPO}"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["encoder"] == "default"
    assert list((tmp_path / "home").rglob("model.safetensors"))


def test_what_the_command_says_of_a_repository_that_is_not_there(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "hf://no/body"]) == EXIT_BAD_FILES
    assert "there is no repository" in capsys.readouterr().err
