"""The command ``serab-byols``; each of its commands has a module here, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serab_byols._version import __version__
from serab_byols.cli.options import EXIT_INTERRUPTED, say
from serab_byols.errors import SerabByolsError

COMMANDS = {
    "embed": "embed audio files into a table",
    "probe": "find out how well embeddings suit labelled clips",
    "hear": "validate and evaluate modules of the HEAR common API",
    "pretrain": "train an encoder on unlabelled audio",
    "info": "show what a checkpoint says of itself",
    "convert": "write a checkpoint in this library's format",
    "list": "show the weights that have a name",
    "download": "download published weights",
}
_MODULES = {"list": "list_weights"}
_NEGATIVE_PAIR = re.compile(r"-[\d.][^,]*,[^,]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _with_negative_pairs(sys.argv[1:] if arguments is None else arguments)
    try:
        with _termination_as_exception():
            options = _parser(arguments[0] if arguments else "").parse_args(arguments)
            return _run(options)
    except _Terminated as terminated:
        say("terminated; unfinished output was removed")
        return 128 + terminated.args[0]
    except KeyboardInterrupt:
        say("interrupted; unfinished output was removed")
        return EXIT_INTERRUPTED


class _Terminated(BaseException):
    """The process was asked to end; the argument is the signal's number."""


@contextmanager
def _termination_as_exception() -> Iterator[None]:
    """Raise on SIGTERM and SIGHUP as on SIGINT, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated(number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), terminate) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options)
    except (SerabByolsError, OSError) as error:
        say(f"error: {error}")
        return options.error_status


def _with_negative_pairs(arguments: Sequence[str]) -> list[str]:
    """``--normalization -6,5`` as ``--normalization=-6,5``, since argparse takes -6,5 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if _NEGATIVE_PAIR.fullmatch(argument) and joined and re.fullmatch(r"--\w[\w-]*", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _parser(command: str) -> argparse.ArgumentParser:
    """A parser of all commands, with the options of the one that is used."""
    parser = argparse.ArgumentParser(
        prog="serab-byols", description="BYOL-S speech embeddings of audio files."
    )
    parser.add_argument("--version", action="version", version=f"serab-byols {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
            module.add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser
