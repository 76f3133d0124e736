"""``serab-byols hear``: HEAR's validator and evaluation, for any module of the common API."""

from __future__ import annotations

import importlib
import importlib.util

from serab_byols.cli.command_parser import CommandParser
from serab_byols.cli.options import Commands

SUBCOMMANDS = {
    "validate": "check a module against every rule of the HEAR common API",
    "evaluate": "score a module on HEAR task folders",
    "make-task": "make a HEAR task folder of labelled clips or events",
}
"""Each has a module here, such as ``hear_make_task``, with ``add_arguments(parser)``."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "hear", description="Validate and evaluate modules of the HEAR 2021 common API, ours and others'."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_SubcommandParser)
    for name, summary in SUBCOMMANDS.items():
        module = f"{__package__}.hear_{name.replace('-', '_')}"
        if importlib.util.find_spec(module) is not None:
            description = f"{summary[0].upper()}{summary[1:]}."
            subcommands.add_parser(name, help=summary, description=description).module = module


class _SubcommandParser(CommandParser):
    """Imports its module, and gets its arguments, when its command is the one that is used."""

    module = ""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        if self.module:
            importlib.import_module(self.module).add_arguments(self)
        return super().parse_known_args(args, namespace)
