"""Serves an explorer's page and the clips of its table to browsers on this machine, and nothing else."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import soundfile

from serab_byols.corpus.decoding import AudioClip
from serab_byols.errors import AudioFileError
from serab_byols.viz.clip_files import BROWSER_TYPES

LOOPBACK = "127.0.0.1"
_LOCAL_HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_MOST_DECODED_FILES = 16
_BLOCK_BYTES = 1 << 16
_IDLE_S = 60.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def audio_urls(paths: Sequence[Path | None]) -> list[str | None]:
    """URLs of the files, relative to the page: by number, so that a name can do nothing."""
    return [None if path is None else f"audio/{number}" for number, path in enumerate(paths)]


class ExplorerServer:
    """The server, on a free port of the loopback interface; a context manager, which closes it.

    Its URL holds a random token, without which nothing is answered: other users of the machine can reach the
    port too. Requests are refused that name another host (DNS rebinding) or come from another site's page.

    Args:
        page: the HTML.
        paths: files of the table; ``audio/3`` is the fourth. What browsers do not play is decoded to WAV, and
            so is ``audio/3.wav``, whatever it is.
        port: 0 stands for a free one.

    Attributes:
        url: of the page.
    """

    def __init__(self, page: str, paths: Sequence[Path | None], *, port: int = 0) -> None:
        self._decoded = _DecodedFiles()
        token = secrets.token_urlsafe(16)
        handler = type(
            "Handler",
            (_Handler,),
            {"page": page.encode(), "paths": list(paths), "decoded": self._decoded, "root": f"/{token}/"},
        )
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        except BaseException:
            self._decoded.remove()
            raise
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/{token}/"

    def serve(self) -> None:
        """Answer until interrupted."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End :meth:`serve`, which runs in another thread."""
        self._server.shutdown()

    def __enter__(self) -> ExplorerServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.server_close()
        self._decoded.remove()


class _DecodedFiles:
    """Files as WAV, mono at their own rate, in a temporary folder; the latest are kept."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="serab-byols-explore-"))
        self._lock = threading.Lock()
        self._kept: dict[int, Path] = {}

    def open(self, number: int, path: Path) -> BinaryIO:
        """The file as WAV, opened; it can be read even after it was dropped.

        Raises:
            AudioFileError: it cannot be decoded.
        """
        with self._lock:
            if number not in self._kept:
                self._kept[number] = self._decode(number, path)
                while len(self._kept) > _MOST_DECODED_FILES:
                    self._drop(next(iter(self._kept)))
            self._kept[number] = self._kept.pop(number)  # now the latest
            return self._kept[number].open("rb")

    def _decode(self, number: int, path: Path) -> Path:
        target = self._folder / f"{number}.wav"
        with AudioClip(path) as clip:
            rate_hz = clip.sample_rate_hz
            with soundfile.SoundFile(target, "w", rate_hz, channels=1, subtype="PCM_16") as file:
                for block in clip.blocks(rate_hz):
                    file.write(block)
        return target

    def _drop(self, number: int) -> None:
        self._kept.pop(number).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Handler(BaseHTTPRequestHandler):
    page: bytes
    paths: list[Path | None]
    decoded: _DecodedFiles
    root: str

    protocol_version = "HTTP/1.1"
    server_version = "serab-byols"
    sys_version = ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if not _LOCAL_HOSTS.fullmatch(self.headers.get("Host", "")):
            return self._refuse(HTTPStatus.FORBIDDEN)
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return self._refuse(HTTPStatus.FORBIDDEN)
        # ASCII for the comparison in constant time; what is not ASCII is no path of ours.
        if not secrets.compare_digest(self.path[: len(self.root)].encode(), self.root.encode()):
            return self._refuse(HTTPStatus.NOT_FOUND)
        name = self.path[len(self.root) :]
        if name == "":
            return self._send_page()
        audio = re.fullmatch(r"audio/(\d{1,9})(\.wav)?", name, re.ASCII)
        if audio is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        self._send_audio(int(audio[1]), decode=audio[2] is not None)

    def _send_page(self) -> None:
        self._begin(HTTPStatus.OK, "text/html; charset=utf-8", len(self.page))
        if self.command == "GET":
            self.wfile.write(self.page)

    def _send_audio(self, number: int, *, decode: bool) -> None:
        path = self.paths[number] if number < len(self.paths) else None
        if path is None or not path.is_file():
            return self._refuse(HTTPStatus.NOT_FOUND)
        media_type = BROWSER_TYPES.get(path.suffix.lower())
        try:
            if decode or media_type is None:
                file, media_type = self.decoded.open(number, path), "audio/wav"
            else:
                file = path.open("rb")
        except (AudioFileError, OSError):
            return self._refuse(HTTPStatus.NOT_FOUND)
        with file:
            self._send_file(file, media_type)

    def _send_file(self, file: BinaryIO, media_type: str) -> None:
        n_bytes = os.fstat(file.fileno()).st_size
        wanted = self.headers.get("Range")
        first, last = 0, n_bytes - 1
        status = HTTPStatus.OK
        if wanted is not None and (bounds := _RANGE.fullmatch(wanted)) and bounds[0] != "bytes=-":
            status = HTTPStatus.PARTIAL_CONTENT
            first, last = _bytes_of(bounds[1], bounds[2], n_bytes)
            if not first <= last:
                return self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{n_bytes}")
        range_sent = f"bytes {first}-{last}/{n_bytes}" if status == HTTPStatus.PARTIAL_CONTENT else None
        self._begin(status, media_type, last - first + 1, range_sent)
        if self.command == "GET":
            file.seek(first)
            remaining = last - first + 1
            while remaining > 0 and (block := file.read(min(_BLOCK_BYTES, remaining))):
                self.wfile.write(block)
                remaining -= len(block)
            if remaining:  # the file has become shorter
                self.close_connection = True

    def _begin(self, status: HTTPStatus, media_type: str, n_bytes: int, sent: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(n_bytes))
        self.send_header("Accept-Ranges", "bytes")
        if sent is not None:
            self.send_header("Content-Range", sent)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def _refuse(self, status: HTTPStatus, sent: str | None = None) -> None:
        """An answer without a body that would repeat what was asked."""
        self._begin(status, "text/plain", 0, sent)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not news."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):  # a browser that has heard enough
            self.close_connection = True


def _bytes_of(first: str, last: str, n_bytes: int) -> tuple[int, int]:
    """First and last byte of a range; ``-500`` is the last 500."""
    if not first:
        return max(0, n_bytes - int(last)), n_bytes - 1
    return int(first), min(int(last), n_bytes - 1) if last else n_bytes - 1
