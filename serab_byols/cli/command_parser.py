"""The parser of the command line: help with examples, and "did you mean" for what it does not know."""

from __future__ import annotations

import argparse
import difflib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any


class HelpFormatter(argparse.HelpFormatter):
    """Paragraphs are wrapped, unless lines in them are indented; a metavar is shown once an option."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(self._filled(paragraph, width, indent) for paragraph in text.split("\n\n"))

    def _filled(self, paragraph: str, width: int, indent: str) -> str:
        return paragraph if "\n  " in paragraph else super()._fill_text(paragraph, width, indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class CommandParser(argparse.ArgumentParser):
    """A parser without abbreviations, which would change their meaning when an option is added.

    Args:
        examples: command lines that the help shows.
        exit_status: what the help says of it.
    """

    def __init__(self, *, examples: Sequence[str] = (), exit_status: str = "", **options: Any) -> None:
        paragraphs = []
        if examples:
            paragraphs.append("\n  ".join(["examples:", *examples]))
        if exit_status:
            paragraphs.append(f"exit status: {exit_status}")
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(allow_abbrev=False, epilog="\n\n".join(paragraphs), **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, where the usage is that of the command."""
        if args is not None:
            self._refuse_unknown_options(args)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def _refuse_unknown_options(self, arguments: Sequence[str]) -> None:
        """Look for them first: a misspelt option may be a required one, and argparse would miss that."""
        if self._subparsers is not None:  # what follows a command is its own
            arguments = list(itertools.takewhile(lambda argument: argument.startswith("-"), arguments))
        for argument in arguments:
            option = argument.partition("=")[0]
            if argument == "--":
                return
            if option.startswith("--") and " " not in argument and option not in self._option_string_actions:
                self.error(
                    f"unrecognized arguments: {argument}{did_you_mean(option, self._option_string_actions)}"
                )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing if no known word is near."""
    known = list(known)
    beginning_alike = [name for name in known if name.startswith(word) and word.strip("-")]
    near = beginning_alike or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""
