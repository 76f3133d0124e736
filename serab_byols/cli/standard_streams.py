"""Standard streams that are closed, full or noisy."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from serab_byols.cli.messages import discard

_STDERR = 2
_PIPE_BYTES = 1 << 16
_PATIENCE_S = 1.0
"""How long to wait for the last lines: a child process that still runs keeps the pipe open."""
_MP3_DECODER = re.compile(rb"(Note|Warning|Error): |\[[^\]]*\.c:[^\]]*\] (error|warning): |\s*$")
"""Beginnings of lines by libmpg123, through which libsndfile decodes MP3."""


def open_standard_streams() -> None:
    """Open streams that the process was started without, so that what is written there goes nowhere.

    Otherwise the next file that is opened would take the descriptor, and what C libraries write to
    stderr would end up in it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def flush_stdout() -> None:
    """Write what is still to be written.

    Raises:
        OSError: it cannot be, such as to a full device or to a pipe that nobody reads any more. What is
            left is discarded.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
        raise


class DecoderNoise:
    """What the MP3 decoder has said.

    Attributes:
        n_lines: their number so far; all of them once the filter has ended.
    """

    def __init__(self) -> None:
        self.n_lines = 0


@contextmanager
def mp3_decoder_silenced() -> Iterator[DecoderNoise]:
    """Keep libmpg123's remarks on damaged files, which it writes to descriptor 2, off the terminal.

    Descriptor 2 becomes a pipe whose lines a thread reads: those of the decoder are counted and dropped,
    all others passed on. ``sys.stderr`` is set to the stream that was there. All of this is of the whole
    process, hence for commands, not for libraries: enter it before other threads are started. Python's
    own messages are not delayed. What C code writes in the moment that it kills the process is lost, except
    for the report of :mod:`faulthandler`, where that is enabled.

    Does nothing if ``sys.stderr`` is not descriptor 2, such as in a test or a notebook.
    """
    noise = DecoderNoise()
    if not _is_stderr_the_descriptor():
        yield noise
        return
    python_stderr = sys.stderr
    python_stderr.flush()
    original = os.dup(_STDERR)
    reading, writing = os.pipe()
    # A thread that holds the interpreter's lock and writes to a full pipe would wait for the reader, which
    # waits for the lock. So writing to a full pipe fails instead, and the line is lost.
    os.set_blocking(writing, False)
    os.dup2(writing, _STDERR)
    os.close(writing)
    sys.stderr = open(  # noqa: SIM115
        os.dup(original), "w", buffering=1, encoding=python_stderr.encoding, errors=python_stderr.errors
    )
    is_fault_reported = faulthandler.is_enabled()
    if is_fault_reported:
        faulthandler.enable(sys.stderr)
    reader = threading.Thread(target=_filter, args=(reading, original, noise), name="stderr", daemon=True)
    reader.start()
    try:
        yield noise
    finally:
        unfiltered, sys.stderr = sys.stderr, python_stderr
        os.dup2(original, _STDERR)  # closes the pipe, which ends the thread
        if is_fault_reported:
            faulthandler.enable(python_stderr)
        with suppress(OSError, ValueError):
            unfiltered.close()
        reader.join(_PATIENCE_S)
        if not reader.is_alive():
            os.close(original)


def _is_stderr_the_descriptor() -> bool:
    try:
        return sys.stderr.fileno() == _STDERR
    except (AttributeError, OSError, ValueError):
        return False


def _filter(reading: int, original: int, noise: DecoderNoise) -> None:
    """Pass on the lines that are not the decoder's."""
    rest = b""
    with open(reading, "rb", buffering=0) as pipe:
        while block := pipe.read(_PIPE_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                _pass_on(line + b"\n", original, noise)
    if rest:
        _pass_on(rest, original, noise)


def _pass_on(line: bytes, original: int, noise: DecoderNoise) -> None:
    if _MP3_DECODER.match(line):
        noise.n_lines += bool(line.strip())
        return
    with suppress(OSError):
        os.write(original, line)
