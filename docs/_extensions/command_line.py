"""The directive ``command-line``: usage, options and examples of every command, from its own parser."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from serab_byols.cli import COMMANDS, _parser
from serab_byols.cli.command_parser import HelpFormatter

USAGE_WIDTH = 78
UNNAMED_GROUPS = ("positional arguments", "options")


class CommandLine(SphinxDirective):
    """A section for every command and every command of a command."""

    def run(self) -> list[nodes.Node]:
        lines = [line for name in COMMANDS for parser in parsers_of(name) for line in section(parser)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def parsers_of(command: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a command, and those of the commands that it has itself."""
    yield from _with_commands(_commands_of(_parser(command))[command])


def _with_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    module = getattr(parser, "module", "")
    if module:  # adds its arguments when it is used
        importlib.import_module(module).add_arguments(parser)
    yield parser
    for subparser in _commands_of(parser).values():
        yield from _with_commands(subparser)


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def section(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A parser in reStructuredText."""
    is_inner = parser.prog.count(" ") > 1
    yield from (parser.prog, ("~" if is_inner else "-") * len(parser.prog), "")
    for paragraph in (parser.description or "").split("\n\n"):
        yield from (escaped(paragraph), "")
    formatter = HelpFormatter(parser.prog, width=USAGE_WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    yield from literal(formatter.format_help())
    yield from (f".. program:: {parser.prog}", "")
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if is_shown(action)]
        if actions and group.title not in UNNAMED_GROUPS:
            yield from (f".. rubric:: {escaped(str(group.title))}", "")
        for action in actions:
            yield from option(parser, action)
    yield from literal(parser.epilog or "")


def is_shown(action: argparse.Action) -> bool:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return action.help is not argparse.SUPPRESS and not isinstance(action, hidden)


def option(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    formatter = HelpFormatter(parser.prog)
    if action.option_strings:
        default = formatter._get_default_metavar_for_optional(action)
        value = formatter._format_args(action, default) if action.nargs != 0 else ""
        forms = [f"{name} {value}".strip() for name in action.option_strings]
    else:
        forms = [formatter._format_args(action, formatter._get_default_metavar_for_positional(action))]
    yield from (f".. option:: {', '.join(forms)}", "")
    yield from (f"   {escaped(formatter._expand_help(action))}", "")


def literal(text: str) -> Iterator[str]:
    if text.strip():
        yield from (".. code-block:: text", "")
        yield from (f"   {line}" for line in text.strip("\n").splitlines())
        yield ""


def escaped(text: str) -> str:
    """Plain text in reStructuredText; options, and what stands between backticks, as code."""
    parts = re.split(r"(`[^`]+`|(?<![\w-])--?[a-z][\w-]*)", text)
    return "".join(_as_code(part) if i % 2 else _plain(part) for i, part in enumerate(parts))


def _as_code(text: str) -> str:
    return f"``{text.strip('`')}``"


def _plain(text: str) -> str:
    return re.sub(r"([\\*_|`])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
