"""Parts of a documentation page that programs write: tables in Markdown, between markers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serab_byols.atomic_write import atomic_write
from serab_byols.errors import InvalidInputError

_BEGIN, _END = "<!-- begin {}, written by a program -->", "<!-- end {} -->"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a cell's vertical bars are escaped."""
    wrong = [row for row in rows if len(row) != len(columns)]
    if wrong:
        raise InvalidInputError(f"a row of {len(columns)} columns has {len(wrong[0])} cells: {wrong[0]}")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def replaced(page: str, name: str, content: str) -> str:
    """The page with other content between the markers of that name.

    Raises:
        InvalidInputError: the page does not have these markers, once each and in their order.
    """
    begin, end = _BEGIN.format(name), _END.format(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise InvalidInputError(f"the page needs, once each and in this order, the lines {begin} and {end}")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"


def write_part(path: Path, name: str, content: str) -> None:
    """Replace the part of that name of a page; the page changes whole or not at all."""
    page = replaced(path.read_text(encoding="utf-8"), name, content)
    with atomic_write(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def provenance(command: Sequence[str], machine: Mapping[str, Any]) -> str:
    """How numbers came to be: the command, and where it ran."""
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}"
    )
    return f"`{shlex.join(['python', *command])}` on {where}."
