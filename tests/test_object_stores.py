"""Inputs, lists and datasets by URL, against a server that speaks the S3 protocol."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pandas
import pytest
from object_store import Proxy
from sounds import voice, write

from serab_byols import cli, embed_dataset, embed_file, embed_files
from serab_byols.corpus import remote
from serab_byols.corpus.dataset import remote_storage
from serab_byols.corpus.dataset.remote_storage import RemoteStorage
from serab_byols.corpus.listing import Inputs
from serab_byols.errors import AudioFileError, InvalidInputError, MissingExtraError

fsspec = pytest.importorskip("fsspec")
s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of the server's and the store's packages, not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
N_CLIPS = int(os.environ.get("CORPUS_CLIPS", 40))
BAD = "s3://audio/clips/007.wav"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(N_CLIPS):
        write(folder / f"{i:03d}.wav", voice(i, 0.2))
    (folder / "007.wav").write_text("not audio")
    return folder


@pytest.fixture(scope="module")
def server(clips):
    """A server with the clips in s3://audio/clips."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    with pytest.MonkeyPatch.context() as patch:
        point_to(patch, port)
        store = s3fs.S3FileSystem()
        store.mkdir("audio")
        store.mkdir("out")
        for path in sorted(clips.iterdir()):
            store.put_file(str(path), f"audio/clips/{path.name}")
    yield port
    server.stop()


def point_to(patch, port):
    """The usual environment of S3's tools."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "NO_PROXY": "127.0.0.1",
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    patch.setattr(remote_storage, "HEARTBEAT_S", 0.2)
    patch.setattr(remote, "FIRST_PAUSE_S", 0.05)


@pytest.fixture
def store(server, monkeypatch):
    point_to(monkeypatch, server)
    yield s3fs.S3FileSystem()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def out(store, request):
    return f"s3://out/{request.node.name}"


@pytest.fixture(scope="module")
def expected(clips, tiny_model):
    good = [path for path in sorted(clips.iterdir()) if path.name != "007.wav"]
    records = embed_files(good, tiny_model)
    return {f"s3://audio/clips/{os.path.basename(record.file)}": record.embedding for record in records}


def assert_complete(out, expected):
    table = pandas.read_parquet(out)
    assert sorted(table["file"]) == sorted(expected)
    for row in table.itertuples():
        np.testing.assert_allclose(row.embedding, expected[row.file], rtol=1e-4, atol=1e-5)


def test_a_corpus_in_a_store_becomes_a_dataset_in_a_store(store, out, tiny_model, expected):
    for n_embedded in (N_CLIPS - 1, 0):
        summary = embed_dataset("s3://audio/clips", out, tiny_model, part_size=16)
        assert (summary.n_segments, summary.n_errors, summary.n_embedded) == (N_CLIPS, 1, n_embedded)
    assert_complete(out, expected)
    with store.open(f"{out}/__run/errors.csv") as file:
        (error,) = pandas.read_csv(file)["error"]
    assert error == f"{BAD}: cannot be read as audio (Format not recognised)"
    assert not store.exists(f"{out}/__run/lock")


def test_collecting_errors_downloads_no_rows(store, out, tiny_model, monkeypatch):
    embed_dataset("s3://audio/clips", out, tiny_model, part_size=16)
    downloaded, original = [], remote_storage.download
    monkeypatch.setattr(
        remote_storage, "download", lambda url, target: downloaded.append(url) or original(url, target)
    )
    assert embed_dataset("s3://audio/clips", out, tiny_model).n_errors == 1
    assert any(url.endswith("/__run/run.json") for url in downloaded)
    assert not [url for url in downloaded if url.endswith(".parquet")]


def test_missing_parts_are_made(store, out, tiny_model, expected):
    embed_dataset("s3://audio/clips", out, tiny_model, part_size=16)
    store.rm_file(f"{out}/part-000001.parquet".removeprefix("s3://"))
    summary = embed_dataset("s3://audio/clips", out, tiny_model)
    assert summary.n_embedded in (15, 16)
    assert_complete(out, expected)


def test_files_and_lists_may_be_urls(store, tmp_path, clips, tiny_model, tiny_checkpoint, expected):
    with store.open("audio/lists/list.csv", "w") as file:
        file.write(f"path,label\n../clips/001.wav,a\ns3://audio/clips/002.wav,b\n{clips / '003.wav'},c\n")
    listed = list(Inputs("s3://audio/lists/list.csv"))
    assert [str(segment.path) for segment in listed] == [
        "s3://audio/lists/../clips/001.wav",
        "s3://audio/clips/002.wav",
        str(clips / "003.wav"),
    ]
    url = "s3://audio/clips/002.wav"
    np.testing.assert_allclose(embed_file(url, tiny_model).embedding, expected[url], rtol=1e-4, atol=1e-5)
    with pytest.raises(
        AudioFileError, match=r"s3://audio/clips/nothing.wav: cannot be downloaded \(no such file\)"
    ):
        embed_file("s3://audio/clips/nothing.wav", tiny_model)
    table = tmp_path / "table.parquet"
    arguments = ["embed", "s3://audio/clips", "-o", str(table), "--model", str(tiny_checkpoint), "--quiet"]
    assert cli.main(arguments) == 1
    assert list(pandas.read_parquet(table)["file"]) == sorted(expected)  # in order of name


def test_a_long_recording_is_downloaded_once(store, tmp_path, tiny_model, monkeypatch):
    write(tmp_path / "long.flac", np.tile(voice(1, 1.0), 70))
    store.put_file(str(tmp_path / "long.flac"), "audio/long/long.flac")
    downloaded, original = [], remote.download
    monkeypatch.setattr(
        remote, "download", lambda url, target: downloaded.append(target) or original(url, target)
    )
    record = embed_file("s3://audio/long/long.flac", tiny_model, timestamps=True, hop_size=500)
    local = embed_file(tmp_path / "long.flac", tiny_model, timestamps=True, hop_size=500)
    np.testing.assert_array_equal(record.embedding, local.embedding)
    (copy,) = downloaded
    assert not copy.exists()


def test_a_file_url_is_a_local_file(tmp_path, clips, tiny_model):
    embed_dataset(f"file://{clips}", f"file://{tmp_path}/dataset", tiny_model)
    table = pandas.read_parquet(tmp_path / "dataset")
    assert sorted(map(os.path.basename, table["file"])) == [
        path.name for path in sorted(clips.iterdir()) if path.name != "007.wav"
    ]


@pytest.mark.parametrize(("drop", "delay_s"), [(0.05, 0.0), (0.0, 0.02)], ids=["drops", "slow"])
def test_a_store_that_drops_requests_or_is_slow(
    server, monkeypatch, out, tiny_model, expected, drop, delay_s
):
    proxy = Proxy(server, drop, delay_s)
    point_to(monkeypatch, proxy.port)
    try:
        summary = embed_dataset("s3://audio/clips", out, tiny_model, part_size=8)
        assert (summary.n_segments, summary.n_errors) == (N_CLIPS, 1)
        assert proxy.n_requests > N_CLIPS
        assert (proxy.n_dropped > 0) == (drop > 0)
        assert_complete(out, expected)
    finally:
        proxy.stop()


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_workers_of_ray_use_a_store_that_fails_now_and_then(
    server, monkeypatch, out, tiny_checkpoint, expected
):
    proxy = Proxy(server, drop=0.05)
    point_to(monkeypatch, proxy.port)
    command = [
        "embed",
        "s3://audio/clips",
        "-o",
        f"{out}/",
        "--model",
        str(tiny_checkpoint),
        "--part-size",
        "8",
    ]
    by_ray = ["--engine", "ray", "--ray-address", "local", "--workers", "2", "--quiet"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serab_byols", *command, *by_ray], capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert f"{BAD}: cannot be read as audio" in done.stderr
        assert f"1 of {N_CLIPS} clips could not be embedded" in done.stderr
        assert proxy.n_dropped > 0
        assert_complete(out, expected)
    finally:
        proxy.stop()


def test_a_download_that_always_breaks_off_is_an_error_row(server, monkeypatch, tmp_path, clips, tiny_model):
    proxy = Proxy(server, drop=1.0)
    point_to(monkeypatch, proxy.port)
    monkeypatch.setattr(remote, "N_TRIES", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    try:
        inputs = [clips / "001.wav", "s3://audio/clips/002.wav", clips / "003.wav"]
        summary = embed_dataset(inputs, tmp_path / "out", tiny_model)
    finally:
        proxy.stop()
    assert (summary.n_errors, summary.n_embedded) == (1, 2)
    (error,) = pandas.read_csv(tmp_path / "out" / "__run" / "errors.csv")["error"]
    assert error.startswith("s3://audio/clips/002.wav: cannot be downloaded (")


def test_a_second_run_is_refused_and_a_killed_one_is_not_waited_for_long(store, out, tiny_model):
    with (
        RemoteStorage(out).locked(),
        pytest.raises(InvalidInputError, match="another run is writing to s3://out/"),
    ):
        embed_dataset("s3://audio/clips/001.wav", out, tiny_model)
    with store.open(f"{out}/__run/lock", "w") as file:
        file.write("0123456789abcdef 3")  # of a run that was killed
    assert embed_dataset("s3://audio/clips/001.wav", out, tiny_model).n_embedded == 1


def test_without_the_extra_the_error_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[cloud\]'"):
        Inputs(["s3://audio/clips"])


def test_unknown_urls_are_refused():
    with pytest.raises(InvalidInputError, match="nothing://x"):
        Inputs(["nothing://x/y.wav"])
