"""One URL into one file, over as many connections as that takes.

What has arrived stays in the file, and the next attempt continues it, in this process or a later
one. Nothing here knows which bytes the file should hold: whoever calls verifies them.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serab_byols._version import __version__
from serab_byols.errors import DownloadError

_BLOCK_BYTES = 1 << 18
_CRAWL_BYTES = 1 << 10
"""A connection that brings less within the timeout is as good as dead."""
_STRONG_TAG = re.compile(r'"[!#-~]*"')
_PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
_log = logging.getLogger(__name__)


Progress = Callable[[int, int | None], None]
"""Told the number of bytes that are here, and of all if it is known."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a server is tried."""

    n_attempts: int = 5
    timeout_s: float = 30.0
    """Without an answer or a kilobyte of it."""
    pause_s: float = 0.5
    """Before the second attempt; it doubles with every further one."""
    lock_s: float = 3600.0
    """For another process that downloads the same file."""


class Part:
    """What has arrived of a file, and which version of it the server said that it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tag_path = path.with_name(f"{path.name}.etag")

    def n_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def tag(self) -> str | None:
        """The strong ETag, the only kind that says that bytes are the same."""
        tag = self._tag_path.read_text(encoding="ascii", errors="replace") if self._tag_path.exists() else ""
        return tag if _STRONG_TAG.fullmatch(tag) else None

    def begin(self, tag: str | None) -> None:
        """Forget what has arrived; what comes now is of the version ``tag``."""
        self.discard()
        if tag is not None and _STRONG_TAG.fullmatch(tag):
            self._tag_path.write_text(tag, encoding="ascii")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.forget_tag()

    def forget_tag(self) -> None:
        self._tag_path.unlink(missing_ok=True)


class _PassingError(Exception):
    """What another attempt may not meet."""


class _OutdatedError(_PassingError):
    """What has arrived is of no use any more."""


def receive(
    url: str, part: Part, *, n_bytes: int | None, limit_bytes: int, patience: Patience, progress: Progress
) -> bool:
    """Bring ``part`` to its end; returns whether it was continued and not brought by one connection.

    Args:
        url: http or https; redirects to either are followed.
        part: where to.
        n_bytes: the size of the file; None if it is not known.
        limit_bytes: never more than this many.
        patience: how often and how long.
        progress: told of every block.

    Raises:
        DownloadError: the server refuses, offers a file of another size, or could not be reached or
            did not send everything in as many attempts. What has arrived is kept for the next call.
        OSError: the file cannot be written.
    """
    continued = part.n_bytes() > 0
    for attempt in range(patience.n_attempts):
        try:
            if attempt:
                time.sleep(patience.pause_s * 2 ** (attempt - 1))
            began_anew = _attempt(url, part, n_bytes, limit_bytes, patience.timeout_s, progress)
            return continued and not began_anew
        except _PassingError as error:  # noqa: PERF203 - what it costs is nothing to a connection
            _log.info("%s: attempt %d: %s", url, attempt + 1, error)
            reason = error
            continued = True
    raise DownloadError(f"{reason} (tried {patience.n_attempts} times)")


def _attempt(
    url: str, part: Part, n_bytes: int | None, limit_bytes: int, timeout_s: float, progress: Progress
) -> bool:
    """One connection; returns whether the file was begun anew."""
    if part.n_bytes() > (limit_bytes if n_bytes is None else n_bytes):
        part.discard()
    if n_bytes is not None and part.n_bytes() == n_bytes:
        return False  # an earlier process was ended between the last byte and the verification
    request, held = _request(url, part), part.n_bytes()
    try:
        with _faults():
            response = _open(request, held, timeout_s)
    except _OutdatedError:
        part.discard()
        raise
    if response is None:
        return False
    with response:
        offset, total = _begin(response, part)
        if total is None:
            total = n_bytes
        elif n_bytes not in (None, total) or total > limit_bytes:
            part.discard()
            kind = response.headers.get_content_type()
            expected = f"at most {limit_bytes:,}" if n_bytes is None else f"{n_bytes:,}"
            raise DownloadError(
                f"the server offers {total:,} bytes of {kind}, expected {expected}: it is another file, or "
                "a login page of the network"
            )
        _append(response, part, total, limit_bytes, timeout_s, progress)
    return offset == 0


def _request(url: str, part: Part) -> urllib.request.Request:
    """Asks for what is missing."""
    held = part.n_bytes()
    # A compressed answer would have another size and could not be continued.
    headers = {"User-Agent": f"serab_byols/{__version__}", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
        tag = part.tag()
        if tag is not None:
            headers["If-Range"] = tag
    return urllib.request.Request(url, headers=headers)


def _open(request: urllib.request.Request, held: int, timeout_s: float) -> http.client.HTTPResponse | None:
    """The answer; None if the server says that the ``held`` bytes are all."""
    opener = urllib.request.build_opener(_HttpRedirects)
    try:
        return opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and held:
            error.close()
            if _content_range(error.headers) == (None, held):
                return None
            raise _OutdatedError("the file on the server has changed meanwhile") from error
        raise


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as urllib does, but never to another protocol."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        if not newurl.lower().startswith(("http://", "https://")):
            raise DownloadError(f"the server redirects to {newurl}, which is not HTTP")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except Exception:
            fp.close()  # which urllib leaves open where the new address is none
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _begin(response: http.client.HTTPResponse, part: Part) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the size of the file if the server tells it."""
    tag = response.headers.get("ETag")
    if response.status == http.client.PARTIAL_CONTENT:
        start, total = _content_range(response.headers)
        expected_tag = part.tag()
        if start == part.n_bytes() and (expected_tag is None or tag in (None, expected_tag)):
            return start, total
        part.discard()
        raise _PassingError("the server sent another part than the one asked for")
    part.begin(tag)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _content_range(headers: Any) -> tuple[int | None, int | None]:
    """First byte of an answer and size of the file, as far as the header tells them."""
    said = headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (?:(\d{1,18})-\d+|\*)/(?:(\d{1,18})|\*)", said)
    start, total = match.groups() if match else (None, None)
    return (None if start is None else int(start)), (None if total is None else int(total))


def _append(
    response: http.client.HTTPResponse,
    part: Part,
    total: int | None,
    limit_bytes: int,
    timeout_s: float,
    progress: Progress,
) -> None:
    limit = limit_bytes if total is None else total
    held = part.n_bytes()
    with part.path.open("ab") as file:
        progress(held, total)
        for block in _blocks(response, timeout_s):
            held += len(block)
            if held > limit:
                break
            file.write(block)
            progress(held, total)
    if held > limit:
        part.discard()
        raise DownloadError(f"the server sends more than {limit:,} bytes: it is another file")
    if total is not None and held < total:
        raise _PassingError(f"the connection ended after {held:,} of {total:,} bytes")


def _blocks(response: http.client.HTTPResponse, timeout_s: float) -> Iterator[bytes]:
    """What comes, as it comes; a timeout of the socket alone would let it come byte by byte."""
    n_in_window, window_ends = 0, time.monotonic() + timeout_s
    while True:
        with _faults():
            # read() would wait until the block is full.
            block = response.read1(_BLOCK_BYTES)
        if not block:
            return
        yield block
        n_in_window += len(block)
        if time.monotonic() > window_ends:
            if n_in_window < _CRAWL_BYTES:
                raise _PassingError(f"less than {_CRAWL_BYTES} bytes came in {timeout_s:g} s")
            n_in_window, window_ends = 0, time.monotonic() + timeout_s


@contextmanager
def _faults() -> Iterator[None]:
    """Sorts what can go wrong with a connection into what may pass and what will not."""
    try:
        yield
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answers {error.code} {error.reason}"
        raise (_PassingError if error.code in _PASSING_STATUS else DownloadError)(said) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the server's certificate is not accepted ({error.reason}); behind a proxy "
                "that opens connections, SSL_CERT_FILE names its certificate"
            ) from error
        raise _PassingError(_words(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_words(error)) from error
    except ValueError as error:  # an address that is none, in a redirect
        raise DownloadError(f"the server answers nonsense: {error}") from error


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended too early"
    return f"no connection: {error or type(error).__name__}"
