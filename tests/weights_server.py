"""Small weights under a published name, and a server on this machine that sends them well or badly."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

import serab_byols
from serab_byols.checkpoint.registry import PublishedWeights

NAME = "tiny-8"
FILE_NAME = "tiny8_made-for-a-test.pth"


def state_dict_bytes(seed: int = 0) -> bytes:
    """A small state dict as a file that could be published."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = serab_byols.create_model(d=8).encoder.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def published_at(folder_url: str, data: bytes, *, sized: bool = True) -> PublishedWeights:
    """The registry's entry for ``data``; of a file that is not ``sized`` only the blob id is known."""
    return PublishedWeights(
        name=NAME,
        file_name=FILE_NAME,
        encoder="default",
        embedding_size=8,
        folder_url=folder_url,
        git_blob_id=hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        sha256=hashlib.sha256(data).hexdigest() if sized else None,
        n_bytes=len(data) if sized else None,
        citation="nobody, nowhere",
    )


@dataclass
class Server:
    """Gives the n-th request the n-th answer, and further ones the last."""

    data: bytes
    url: str = ""
    answers: list[Answer] = field(default_factory=lambda: [whole()])
    paths: list[str] = field(default_factory=list)
    """What was requested."""
    half_sent: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    """What stalls goes on when this is set."""


class Handler(http.server.BaseHTTPRequestHandler):
    told: Server

    def do_GET(self) -> None:
        number = len(self.told.paths)
        self.told.paths.append(self.path)
        with suppress(ConnectionError):  # the client has gone, as some tests want
            self.told.answers[min(number, len(self.told.answers) - 1)](self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


Answer = Callable[[Handler], None]


def whole(data: bytes | None = None, n_sent: int | None = None) -> Answer:
    """The file, or other ``data``; the connection ends after ``n_sent`` bytes."""

    def answer(handler: Handler) -> None:
        body = handler.told.data if data is None else data
        handler.start(200, Content_Length=len(body))
        handler.wfile.write(body[:n_sent])

    return answer


def stalled(handler: Handler) -> None:
    """Half of the file, and the rest when it is released."""
    data = handler.told.data
    whole(n_sent=len(data) // 2)(handler)
    handler.told.half_sent.set()
    handler.told.released.wait()
    handler.wfile.write(data[len(data) // 2 :])


def status(code: int) -> Answer:
    return lambda handler: handler.start(code, Content_Length=0)


def redirect(to: str) -> Answer:
    return lambda handler: handler.start(302, Location=to, Content_Length=0)


@contextmanager
def running(data: bytes) -> Iterator[Server]:
    told = Server(data)
    handler = type("Bound", (Handler,), {"told": told})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        # Polls often, since a test waits for the shutdown.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            told.released.set()
            server.shutdown()
            thread.join()
