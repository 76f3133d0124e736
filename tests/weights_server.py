"""Weights made for a test, and a server on this machine that sends them well or badly."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

import serab_byols
from serab_byols.checkpoint.registry import PublishedWeights

FILE_NAME = "tiny8_made-for-a-test.pth"
NAME = "tiny-8"


def state_dict_bytes(seed: int = 0) -> bytes:
    """A small state dict as it is published."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = serab_byols.create_model(d=8).encoder.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def weights_of(data: bytes, folder_url: str, *, sized: bool = True) -> PublishedWeights:
    """What the registry would say of ``data``; of one that is not ``sized`` only the blob id is known."""
    return PublishedWeights(
        name=NAME,
        file_name=FILE_NAME,
        encoder="default",
        embedding_size=8,
        folder_url=folder_url,
        git_blob_id=git_blob_id(data),
        sha256=hashlib.sha256(data).hexdigest() if sized else None,
        n_bytes=len(data) if sized else None,
        licence="MIT",
        citation="nobody, nowhere",
    )


@dataclass
class Server:
    """Answers the n-th request in the n-th way, and further ones in the last."""

    data: bytes
    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers by lower-case name, and the path."""
    n_sent: int = 0
    """Bytes of bodies."""
    half_sent: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    """Whatever stalls goes on when this is set."""

    def answered(self, *answers: Answer) -> Server:
        self.answers = list(answers)
        return self

    @property
    def ranges(self) -> list[str | None]:
        return [request.get("range") for request in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; what an answer needs."""

    told: Server

    def do_GET(self) -> None:
        number = len(self.told.requests)
        self.told.requests.append({k.lower(): v for k, v in self.headers.items()} | {"path": self.path})
        answers = self.told.answers or [serve]
        with suppress(ConnectionError):  # the client has gone, as some tests want
            answers[min(number, len(answers) - 1)](self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.told.n_sent += len(data)  # first, as the client may be done before this thread goes on
        self.wfile.write(data)
        self.wfile.flush()


Answer = Callable[[Handler], None]


def serve(handler: Handler, data: bytes | None = None, n_sent: int | None = None, tag: str = '"v1"') -> None:
    """As a good server: ranges, ETag and If-Range; the connection ends after ``n_sent`` bytes."""
    data = handler.told.data if data is None else data
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked and handler.headers.get("If-Range", tag) == tag else 0
    if start and start >= len(data):
        handler.start(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
        return
    body = data[start:]
    headers: dict[str, object] = {"Content_Length": len(body), "ETag": tag}
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    handler.start(206 if start else 200, **headers)
    handler.send(body[:n_sent])


def truncated(n_sent: int) -> Answer:
    return lambda handler: serve(handler, n_sent=n_sent)


def stalled(handler: Handler) -> None:
    """Half of it, and then nothing."""
    serve(handler, n_sent=len(handler.told.data) // 2)
    handler.told.half_sent.set()
    handler.told.released.wait()


def stalled_then_rest(handler: Handler) -> None:
    """Half of it, and the rest when it is released."""
    data = handler.told.data
    stalled(handler)
    handler.send(data[len(data) // 2 :])


def silent(handler: Handler) -> None:
    handler.told.released.wait()


def crawling(handler: Handler) -> None:
    """A byte at a time, which no timeout of a socket ends."""
    handler.start(200, Content_Length=len(handler.told.data))
    for byte in handler.told.data:
        handler.send(bytes([byte]))
        if handler.told.released.wait(0.02):
            return


def without_ranges(handler: Handler) -> None:
    handler.start(200, Content_Length=len(handler.told.data))
    handler.send(handler.told.data)


def without_length(data: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.start(200)
        handler.send(data)

    return answer


def with_data(data: bytes, tag: str = '"v2"', n_sent: int | None = None) -> Answer:
    return lambda handler: serve(handler, data, n_sent, tag)


def status(code: int) -> Answer:
    return lambda handler: handler.start(code, Content_Length=0)


def redirect(to: str, code: int = 302) -> Answer:
    return lambda handler: handler.start(code, Location=to, Content_Length=0)


def wrong_range(handler: Handler) -> None:
    """Another part than the one that was asked for."""
    data = handler.told.data
    handler.start(206, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}", Content_Length=len(data))
    handler.send(data)


@contextmanager
def running(data: bytes) -> Iterator[Server]:
    told = Server(data)

    class Bound(Handler):
        pass

    Bound.told = told
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        # Looks for the end often, since a test waits for it.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            told.released.set()
            server.shutdown()
            thread.join()
