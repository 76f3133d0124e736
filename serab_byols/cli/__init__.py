"""The command ``serab-byols``; each of its commands has a module here."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from serab_byols._version import __version__
from serab_byols.cli import convert, download, embed, info, list_weights, pretrain, probe
from serab_byols.cli.options import EXIT_INTERRUPTED, say
from serab_byols.errors import SerabByolsError

COMMANDS = (embed, probe, pretrain, info, convert, list_weights, download)
_NEGATIVE_PAIR = re.compile(r"-[\d.][^,]*,[^,]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(_with_negative_pairs(sys.argv[1:] if arguments is None else arguments))
    try:
        return options.run(options)
    except (SerabByolsError, OSError) as error:
        say(f"error: {error}")
        return options.error_status
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return EXIT_INTERRUPTED


def _with_negative_pairs(arguments: Sequence[str]) -> list[str]:
    """``--normalization -6,5`` as ``--normalization=-6,5``, since argparse takes -6,5 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if _NEGATIVE_PAIR.fullmatch(argument) and joined and re.fullmatch(r"--\w[\w-]*", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serab-byols", description="BYOL-S speech embeddings of audio files."
    )
    parser.add_argument("--version", action="version", version=f"serab-byols {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
