"""Downloads from a server that does everything wrong: verified, continued, whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import filelock
import pytest
import weights_server as ways
from weights_server import FILE_NAME, Server, state_dict_bytes, weights_of

from serab_byols.checkpoint import download, transfer
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.checkpoint.transfer import Patience
from serab_byols.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DownloadError,
    InvalidInputError,
    SerabByolsError,
)

DATA = state_dict_bytes()
OTHER = state_dict_bytes(seed=1)
N = len(DATA)
QUICK = Patience(n_attempts=3, timeout_s=10, pause_s=0.001)
IMPATIENT = Patience(n_attempts=2, timeout_s=0.2, pause_s=0.001)
assert len(OTHER) == N
assert OTHER != DATA


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("SERAB_BYOLS_OFFLINE", raising=False)
    with ways.running(DATA) as told:
        yield told


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "a" / "cache"


def fetch(server: Server, cache: Path, **options: Any) -> Path:
    options = {"patience": QUICK, **options}
    return download.fetch(weights_of(DATA, server.url, sized=options.pop("sized", True)), cache, **options)


def failure(server: Server, cache: Path, **options: Any) -> str:
    """What the error says; nothing has the file's name then."""
    with pytest.raises(DownloadError) as raised:
        fetch(server, cache, **options)
    assert isinstance(raised.value, (SerabByolsError, OSError))
    assert not (cache / FILE_NAME).exists()
    return str(raised.value)


def part_of(cache: Path) -> Path:
    return cache / f".{FILE_NAME}.part"


def leave_part(cache: Path, data: bytes, tag: str | None = None) -> None:
    """What a process that was ended leaves."""
    cache.mkdir(parents=True)
    part_of(cache).write_bytes(data)
    if tag is not None:
        part_of(cache).with_name(f".{FILE_NAME}.part.etag").write_text(tag)


def left(cache: Path) -> set[str]:
    """Names in the cache but for the lock, of which not every version of the library leaves a file."""
    return {path.name for path in cache.iterdir()} - {f".{FILE_NAME}.lock"}


# Well


@pytest.mark.parametrize("sized", [True, False])
def test_a_file_is_downloaded_once(sized: bool, server: Server, cache: Path) -> None:
    path = fetch(server, cache, sized=sized)
    assert path == cache / FILE_NAME
    assert path.read_bytes() == DATA
    assert left(cache) == {FILE_NAME}
    assert fetch(server, cache, sized=sized) == path
    assert len(server.requests) == 1
    assert server.requests[0]["path"] == f"/{FILE_NAME}"
    assert server.requests[0]["accept-encoding"] == "identity"


def test_the_permissions_are_those_of_any_new_file(server: Server, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert fetch(server, cache).stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("code", [301, 302, 303, 307])
def test_redirects_are_followed(code: int, server: Server, cache: Path) -> None:
    server.answered(ways.redirect(f"{server.url}/elsewhere", code), ways.redirect("/there", code), ways.serve)
    assert fetch(server, cache).read_bytes() == DATA
    assert [request["path"] for request in server.requests] == [f"/{FILE_NAME}", "/elsewhere", "/there"]


def test_a_redirected_download_is_continued(server: Server, cache: Path) -> None:
    server.answered(
        ways.redirect("/there"), ways.truncated(N // 3), ways.redirect("/there"), ways.serve, ways.status(500)
    )
    assert fetch(server, cache).read_bytes() == DATA
    assert server.ranges == [None, None, f"bytes={N // 3}-", f"bytes={N // 3}-"]


def test_a_proxy_of_the_environment_is_used(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    download.fetch(weights_of(DATA, "http://weights.invalid/w"), cache, patience=QUICK)
    assert server.requests[0]["path"] == f"http://weights.invalid/w/{FILE_NAME}"


@pytest.mark.parametrize("sized", [True, False])
def test_a_bar_shows_the_progress(
    sized: bool, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answered(ways.truncated(N // 2), ways.without_ranges)
    fetch(server, cache, progress=True, sized=sized)
    out, err = capsys.readouterr()
    assert "tiny-8: 100%" in err
    assert out == ""


def test_without_a_terminal_nothing_is_shown(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(server, cache)
    assert capsys.readouterr() == ("", "")
    (cache / FILE_NAME).unlink()
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    assert fetch(server, cache).read_bytes() == DATA


# Interruptions


@pytest.mark.parametrize("sized", [True, False])
def test_a_truncated_answer_is_continued(sized: bool, server: Server, cache: Path) -> None:
    server.answered(ways.truncated(1000), ways.truncated(N // 2), ways.serve)
    assert fetch(server, cache, sized=sized).read_bytes() == DATA
    assert server.ranges == [None, "bytes=1000-", f"bytes={1000 + N // 2}-"]
    assert [request.get("if-range") for request in server.requests] == [None, '"v1"', '"v1"']
    assert server.n_sent == N  # not a byte twice
    assert left(cache) == {FILE_NAME}


def test_a_server_without_ranges_begins_anew(server: Server, cache: Path) -> None:
    server.answered(ways.truncated(N // 2), ways.without_ranges)
    assert fetch(server, cache).read_bytes() == DATA
    assert server.n_sent == N // 2 + N


def test_always_truncated_ends_and_keeps_what_came(server: Server, cache: Path) -> None:
    server.answered(ways.truncated(100))
    said = failure(server, cache)
    assert f"ended after 300 of {N:,} bytes (tried 3 times)" in said or "ended too early (tried 3" in said
    assert len(server.requests) == 3
    assert part_of(cache).read_bytes() == DATA[:300]
    server.answered(ways.serve)
    assert fetch(server, cache).read_bytes() == DATA
    assert server.ranges[-1] == "bytes=300-"


def test_nothing_at_all_is_tried_again(server: Server, cache: Path) -> None:
    server.answered(ways.truncated(0), ways.serve)
    assert fetch(server, cache).read_bytes() == DATA


@pytest.mark.parametrize("way", [ways.stalled, ways.silent, ways.crawling])
def test_a_stall_is_ended_and_the_rest_is_asked_for(way: ways.Answer, server: Server, cache: Path) -> None:
    server.answered(way, ways.serve)
    assert fetch(server, cache, patience=IMPATIENT).read_bytes() == DATA
    assert len(server.requests) == 2
    assert (server.ranges[1] is None) == (way is ways.silent)


def test_always_stalled_ends(server: Server, cache: Path) -> None:
    server.answered(ways.silent)
    assert "does not answer in time (tried 2 times)" in failure(server, cache, patience=IMPATIENT)
    assert len(server.requests) == 2


def test_a_changed_file_is_not_spliced(server: Server, cache: Path) -> None:
    server.answered(ways.with_data(OTHER, '"old"', N // 2), ways.serve)
    assert fetch(server, cache).read_bytes() == DATA
    assert server.requests[1]["if-range"] == '"old"'
    assert server.n_sent == N // 2 + N


def test_a_part_of_another_file_costs_a_download_and_no_more(server: Server, cache: Path) -> None:
    """Without an ETag nothing tells the part from the file's own, until it is verified."""
    leave_part(cache, OTHER[: N // 2])
    assert fetch(server, cache).read_bytes() == DATA
    assert server.ranges == [f"bytes={N // 2}-", None]


@pytest.mark.parametrize("tag", ['W/"v1"', "v1", '"a"\r\nX-Injected: b', '"\xe4"'])
def test_a_weak_or_odd_tag_is_not_relied_on(tag: str, server: Server, cache: Path) -> None:
    leave_part(cache, DATA[:10], tag)
    assert fetch(server, cache).read_bytes() == DATA
    assert server.ranges == ["bytes=10-"]
    assert "if-range" not in server.requests[0]


def test_another_part_than_asked_for_is_not_appended(server: Server, cache: Path) -> None:
    leave_part(cache, DATA[: N // 2], '"v1"')
    server.answered(ways.wrong_range, ways.serve)
    assert fetch(server, cache).read_bytes() == DATA
    assert server.ranges == [f"bytes={N // 2}-", None]


def test_a_part_of_another_version_is_not_appended(server: Server, cache: Path) -> None:
    """By a server that sends a range of the new file although If-Range names the old one."""
    leave_part(cache, OTHER[: N // 2], '"old"')

    def careless(handler: ways.Handler) -> None:
        handler.headers.replace_header("If-Range", '"v1"')
        ways.serve(handler)

    server.answered(careless, ways.serve)
    assert fetch(server, cache).read_bytes() == DATA
    assert server.ranges == [f"bytes={N // 2}-", None]


def test_ended_before_the_verification(server: Server, cache: Path) -> None:
    leave_part(cache, DATA, '"v1"')
    assert fetch(server, cache).read_bytes() == DATA
    assert not server.requests
    assert left(cache) == {FILE_NAME}


def test_ended_before_the_verification_of_a_file_of_unknown_size(server: Server, cache: Path) -> None:
    leave_part(cache, DATA, '"v1"')
    assert fetch(server, cache, sized=False).read_bytes() == DATA
    assert server.ranges == [f"bytes={N}-"]
    assert server.n_sent == 0


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("part", [OTHER, DATA + b"more", OTHER[:-5] + b"wrong"])
def test_a_part_that_is_wrong_or_too_long_is_begun_anew(
    part: bytes, sized: bool, server: Server, cache: Path
) -> None:
    leave_part(cache, part)
    assert fetch(server, cache, sized=sized).read_bytes() == DATA
    assert server.n_sent == N


def test_an_interruption_keeps_what_came(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, weights: PublishedWeights) -> None:
        if path == part_of(cache):
            raise KeyboardInterrupt
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(download, "mismatch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, cache)
    assert not (cache / FILE_NAME).exists()
    assert fetch(server, cache).read_bytes() == DATA
    assert len(server.requests) == 1


# Wrong bytes


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(("sized", "digest"), [(True, "sha256"), (False, "git blob id")])
def test_corrupt_bytes_are_deleted_and_both_digests_said(
    sized: bool, digest: str, server: Server, cache: Path
) -> None:
    bad = flipped(DATA)
    server.answered(ways.with_data(bad))
    said = failure(server, cache, sized=sized)
    weights, other = (weights_of(data, server.url) for data in (DATA, bad))
    expected, got = (weights.sha256, other.sha256) if sized else (weights.git_blob_id, other.git_blob_id)
    assert f"its {digest} is {got}, expected {expected}" in said
    assert f"{server.url}/{FILE_NAME}" in said
    assert left(cache) == set()
    assert len(server.requests) == 1


def test_the_blob_id_counts_where_the_sha256_agrees(server: Server, cache: Path) -> None:
    right = weights_of(DATA, server.url)
    weights = replace(right, git_blob_id="0" * 40)
    with pytest.raises(DownloadError, match=f"git blob id is {right.git_blob_id}, expected 00"):
        download.fetch(weights, cache, patience=QUICK)


def test_a_corrupt_part_and_a_corrupt_file_end(server: Server, cache: Path) -> None:
    leave_part(cache, flipped(DATA)[:-10], '"v2"')
    server.answered(ways.with_data(flipped(DATA)))
    assert "sha256" in failure(server, cache)
    assert len(server.requests) == 2


@pytest.mark.parametrize("data", [DATA + b"and more", DATA[:-9], b"<html>Please log in</html>"])
def test_another_size_is_not_even_received(data: bytes, server: Server, cache: Path) -> None:
    server.answered(ways.with_data(data))
    said = failure(server, cache)
    assert f"offers {len(data):,} bytes" in said
    assert f"expected {N:,}" in said
    assert "login page" in said
    assert len(server.requests) == 1
    assert left(cache) == set()


def test_an_answer_without_a_length_is_cut_off(server: Server, cache: Path) -> None:
    server.answered(ways.without_length(DATA + b"?"))
    assert f"more than {N:,} bytes" in failure(server, cache)
    assert left(cache) == set()


def test_an_answer_without_a_length_may_be_right(server: Server, cache: Path) -> None:
    server.answered(ways.without_length(DATA[:500]), ways.without_length(DATA))
    assert fetch(server, cache).read_bytes() == DATA


def test_a_file_of_unknown_size_has_a_limit(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "UNKNOWN_SIZE_LIMIT_BYTES", N - 1)
    assert f"offers {N:,} bytes" in failure(server, cache, sized=False)
    server.answered(ways.without_length(DATA))
    assert f"more than {N - 1:,} bytes" in failure(server, cache, sized=False)
    monkeypatch.setattr(download, "UNKNOWN_SIZE_LIMIT_BYTES", N)
    assert fetch(server, cache, sized=False).read_bytes() == DATA


@pytest.mark.parametrize("harmed", [flipped(DATA), DATA[:-1], DATA + b"x", b""])
def test_a_file_that_decays_in_the_cache_is_replaced(harmed: bytes, server: Server, cache: Path) -> None:
    path = fetch(server, cache)
    path.write_bytes(harmed)
    assert fetch(server, cache).read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_decayed_file_is_never_given_out(server: Server, cache: Path) -> None:
    path = fetch(server, cache)
    path.write_bytes(flipped(DATA))
    server.answered(ways.status(404))
    with pytest.raises(DownloadError, match="404"):
        fetch(server, cache)


# Refusals


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final(code: int, server: Server, cache: Path) -> None:
    server.answered(ways.status(code))
    said = failure(server, cache)
    assert f"answers {code}" in said
    assert len(server.requests) == 1
    # What can be done.
    assert f"get {server.url}/{FILE_NAME} by other means" in said
    assert "checkpoints/" in said
    assert "firewall" in said


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_a_passing_refusal_is_tried_again(code: int, server: Server, cache: Path) -> None:
    server.answered(ways.status(code), ways.status(code), ways.serve)
    assert fetch(server, cache).read_bytes() == DATA


def test_a_lasting_503_ends(server: Server, cache: Path) -> None:
    server.answered(ways.truncated(700), ways.status(503))
    assert "answers 503 Service Unavailable (tried 3 times)" in failure(server, cache)
    assert len(server.requests) == 3
    assert part_of(cache).read_bytes() == DATA[:700]


def test_a_redirect_loop_ends(server: Server, cache: Path) -> None:
    server.answered(ways.redirect(f"/{FILE_NAME}"))
    assert "answers 302" in failure(server, cache)
    assert len(server.requests) < 20


@pytest.mark.parametrize("to", ["ftp://127.0.0.1/w", "file:///etc/passwd", "data:,x", "FTP://127.0.0.1/w"])
def test_redirects_stay_with_http(to: str, server: Server, cache: Path) -> None:
    server.answered(ways.redirect(to))
    said = failure(server, cache)
    assert "which is not HTTP" in said or "not allowed" in said
    assert len(server.requests) == 1


@pytest.mark.parametrize("to", ["http://[", "http://127.0.0.1:port/"])
def test_a_redirect_to_nowhere_is_an_error_of_ours(to: str, server: Server, cache: Path) -> None:
    server.answered(ways.redirect(to))
    assert "could not be downloaded" in failure(server, cache)


def test_no_server(server: Server, cache: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        weights = weights_of(DATA, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"no connection: .*refused.*offline"):
            download.fetch(weights, cache, patience=QUICK)


def test_an_unknown_host_is_said(server: Server, cache: Path) -> None:
    with pytest.raises(DownloadError, match="no connection"):
        download.fetch(weights_of(DATA, "http://weights.invalid"), cache, patience=IMPATIENT)


def test_a_foreign_certificate_is_not_tried_again(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    tries = []

    def opened(*arguments: object) -> None:
        tries.append(arguments)
        raise URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(transfer, "_open", opened)
    said = failure(server, cache)
    assert "self-signed" in said
    assert "SSL_CERT_FILE" in said
    assert len(tries) == 1


def test_pauses_double(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", pauses.append)
    server.answered(ways.status(500))
    failure(server, cache, patience=Patience(n_attempts=5, timeout_s=10, pause_s=0.5))
    assert pauses == [0.5, 1, 2, 4]


# Offline


def test_offline_uses_the_cache_and_asks_nobody(server: Server, cache: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"not in the cache .*offline mode") as raised:
        fetch(server, cache, offline=True)
    assert isinstance(raised.value, FileNotFoundError)
    assert f"{server.url}/{FILE_NAME}" in str(raised.value)
    assert not cache.exists()
    path = fetch(server, cache, offline=False)
    assert fetch(server, cache, offline=True) == path
    path.write_bytes(flipped(DATA))
    with pytest.raises(CheckpointError, match=r"damaged: its sha256 is \w+, expected \w+; and offline"):
        fetch(server, cache, offline=True)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), (" YES ", True), ("0", False), ("", False), ("off", False)],
)
def test_the_environment_says_offline(
    value: str, offline: bool, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERAB_BYOLS_OFFLINE", value)
    if offline:
        with pytest.raises(CheckpointNotFoundError):
            fetch(server, cache)
        assert fetch(server, cache, offline=False).is_file()
    else:
        with pytest.raises(CheckpointNotFoundError):
            fetch(server, cache, offline=True)
        assert fetch(server, cache).is_file()


def test_the_environment_must_be_clear(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERAB_BYOLS_OFFLINE", "perhaps")
    with pytest.raises(InvalidInputError, match=r"SERAB_BYOLS_OFFLINE is 'perhaps'"):
        fetch(server, cache)
    assert not server.requests


# The cache


def unusable(server: Server, cache: Path) -> str:
    with pytest.raises(DownloadError) as raised:
        fetch(server, cache)
    said = str(raised.value)
    assert f"cache {cache} cannot be used" in said
    assert "SERAB_BYOLS_CACHE" in said
    return said


def test_a_cache_below_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in unusable(server, tmp_path / "file" / "cache")
    assert not server.requests


def test_a_folder_in_the_file_s_place(server: Server, cache: Path) -> None:
    (cache / FILE_NAME).mkdir(parents=True)
    assert "Is a directory" in unusable(server, cache)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_only_be_read(server: Server, cache: Path) -> None:
    path = fetch(server, cache)
    cache.chmod(0o500)
    try:
        assert fetch(server, cache) == path
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        assert "Permission denied" in unusable(server, cache)
    finally:
        cache.chmod(0o700)


def test_a_whole_file_needs_no_lock(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(server, cache)

    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock, "FileLock", denied)
    assert fetch(server, cache) == path
    path.unlink()
    assert "Permission denied" in unusable(server, cache)


def test_a_full_disk(server: Server, cache: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (N // 2, hard))
    try:
        assert "File too large" in unusable(server, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (cache / FILE_NAME).exists()
    assert fetch(server, cache).read_bytes() == DATA


def test_a_lock_that_is_never_free(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    with filelock.FileLock(cache / f".{FILE_NAME}.lock"):
        assert "another process" in failure(server, cache, patience=Patience(lock_s=0.05))
    assert not server.requests


# Processes

FETCH = """
import json, sys
from serab_byols.checkpoint import download
from serab_byols.checkpoint.registry import PublishedWeights
weights, cache = json.loads(sys.argv[1])
print("ready", flush=True)
print(download.fetch(PublishedWeights(**weights), cache))
"""


def process(server: Server, cache: Path) -> subprocess.Popen[str]:
    """One that says it is ready, and then fetches."""
    arguments = json.dumps([asdict(weights_of(DATA, server.url)), str(cache)])
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_at_once_download_once(server: Server, cache: Path) -> None:
    server.answered(ways.stalled_then_rest, ways.status(500))
    processes = [process(server, cache) for _ in range(3)]
    try:
        for one in processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        assert server.half_sent.wait(30)
        server.released.set()
        for one in processes:
            out, err = one.communicate(timeout=60)
            assert (out, err, one.returncode) == (f"{cache / FILE_NAME}\n", "", 0)
    finally:
        for one in processes:
            one.kill()
            one.communicate()
    assert len(server.requests) == 1
    assert (cache / FILE_NAME).read_bytes() == DATA
    assert left(cache) == {FILE_NAME}


def test_a_killed_download_is_continued(server: Server, cache: Path) -> None:
    server.answered(ways.stalled, ways.serve)
    with process(server, cache) as one:
        try:
            assert server.half_sent.wait(60)
            wait_for_bytes(part_of(cache), one)
        finally:
            one.kill()
            one.communicate()
    assert not (cache / FILE_NAME).exists()
    n_kept = part_of(cache).stat().st_size
    assert fetch(server, cache).read_bytes() == DATA  # and the dead hold no lock
    assert server.ranges == [None, f"bytes={n_kept}-"]
    assert left(cache) == {FILE_NAME}


def wait_for_bytes(path: Path, one: subprocess.Popen[str]) -> None:
    """Until something has been written, or the process has ended."""
    while one.poll() is None and not (path.exists() and path.stat().st_size):
        with suppress(subprocess.TimeoutExpired):
            one.wait(0.02)
