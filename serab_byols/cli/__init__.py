"""The command ``serab-byols``; each of its commands has a module here, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serab_byols._version import __version__
from serab_byols.cli.command_parser import CommandParser, did_you_mean
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_USAGE
from serab_byols.cli.standard_streams import flush_stdout, open_standard_streams
from serab_byols.errors import SerabByolsError

COMMANDS = {
    "embed": "embed audio files into a table",
    "pca": "find the principal components of embeddings",
    "probe": "find out how well embeddings suit labelled clips",
    "hear": "validate and evaluate modules of the HEAR common API",
    "pretrain": "train an encoder on unlabelled audio",
    "plot": "draw a recording over time, or a map of embeddings",
    "explore": "make a page to look at and listen to a corpus",
    "info": "show what a checkpoint says of itself",
    "convert": "write a checkpoint in this library's format",
    "export": "write a model for ONNX Runtime or torch.export",
    "list": "show the weights that have a name",
    "download": "download published weights",
}
_MODULES = {"list": "list_weights"}
_NEGATIVE_PAIR = re.compile(r"-[\d.][^,]*,[^,]+")


EXIT_BROKEN_PIPE = 128 + 13
"""As of programs that SIGPIPE ends: whoever read the output, such as ``head``, has had enough."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    open_standard_streams()
    received: list[int] = []
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        with _signals_as_exceptions(received), _cache_folder(getattr(options, "cache_dir", None)):
            return _run(options)
    except (KeyboardInterrupt, _Terminated):
        return _stopped(received)
    except Exception:
        if not received:
            raise
        return _stopped(received)  # extension modules may make something else of the interrupt


def _stopped(received: Sequence[int]) -> int:
    """Say so; the exit status."""
    number = received[0] if received else signal.SIGINT
    word = "interrupted" if number == signal.SIGINT else "terminated"
    log(f"{word}; unfinished output was removed")
    return 128 + number


class _Terminated(BaseException):
    """The process was asked to end."""


@contextmanager
def _signals_as_exceptions(received: list[int]) -> Iterator[None]:
    """Raise on SIGTERM and SIGHUP as on SIGINT, so that temporary files are removed.

    Signals that are ignored, as under ``nohup``, stay so. Numbers of those that come are appended to
    ``received``.
    """
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


@contextmanager
def _cache_folder(cache_dir: str | None) -> Iterator[None]:
    """Make ``--cache-dir`` the folder for downloads, of this process and of those that it starts."""
    before = os.environ.get("SERAB_BYOLS_CACHE")
    if cache_dir is not None:
        os.environ["SERAB_BYOLS_CACHE"] = cache_dir
    try:
        yield
    finally:
        if before is not None:
            os.environ["SERAB_BYOLS_CACHE"] = before
        elif cache_dir is not None:
            del os.environ["SERAB_BYOLS_CACHE"]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    arguments = _with_negative_pairs(arguments)
    try:
        return _parser(arguments[0] if arguments else "").parse_args(arguments)
    except SystemExit as ended:  # after help or a refusal
        raise SystemExit(_flushed(ended.code, EXIT_USAGE)) from None


def _run(options: argparse.Namespace) -> int:
    try:
        status = options.run(options)
    except BrokenPipeError:
        status = EXIT_BROKEN_PIPE
    except (SerabByolsError, OSError) as error:
        log(f"error: {error}")
        status = options.error_status
    return _flushed(status, options.error_status)


def _flushed(status: Any, failure: int) -> Any:
    """The exit status, or another if what was printed cannot be written."""
    try:
        flush_stdout()
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except OSError as error:
        log(f"error: standard output cannot be written: {error.strerror}")
        return failure
    return status


def _with_negative_pairs(arguments: Sequence[str]) -> list[str]:
    """``--normalization -6,5`` as ``--normalization=-6,5``, since argparse takes -6,5 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if _NEGATIVE_PAIR.fullmatch(argument) and joined and re.fullmatch(r"--\w[\w-]*", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _parser(command: str) -> CommandParser:
    """A parser of all commands, with the options of the one that is used."""
    parser = CommandParser(
        prog="serab-byols",
        description="BYOL-S speech embeddings of audio files. `serab-byols COMMAND --help` has the options.",
        examples=(
            "serab-byols embed recordings -o embeddings.parquet",
            "serab-byols probe labelled.csv",
            "serab-byols list",
        ),
    )
    parser.add_argument("--version", action="version", version=f"serab-byols {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
            module.add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    if command and not command.startswith("-") and command not in COMMANDS:
        parser.error(f"unknown command {command!r}{did_you_mean(command, COMMANDS) or '; see --help'}")
    return parser
