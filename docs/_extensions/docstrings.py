"""What autodoc and napoleon do not read well in our docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

_BEFORE_NAPOLEON = 400
_SEVERAL_NAMES = re.compile(r"    ((?:\w+, )+\w+): (.*)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _one_name_each, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-signature", _readable_defaults)
    app.connect("autodoc-skip-member", _is_bare_field)
    return {"parallel_read_safe": True}


def _one_name_each(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """``start, end: seconds`` among attributes as an entry for each, as napoleon has it among arguments."""
    start = lines.index("Attributes:") + 1 if "Attributes:" in lines else len(lines)
    end = next((i for i in range(start, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
    entries: list[list[str]] = []
    for line in lines[start:end]:
        if line.startswith(" " * 5) and entries:
            entries[-1].append(line)
        else:
            entries.append([line])
    lines[start:end] = [line for entry in entries for line in _entry_of_each_name(*entry)]


def _entry_of_each_name(first: str, *others: str) -> Iterator[str]:
    several = _SEVERAL_NAMES.fullmatch(first)
    for beginning in [f"    {name}: {several[2]}" for name in several[1].split(", ")] if several else [first]:
        yield from (beginning, *others)


def _readable_defaults(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Defaults of dataclasses that a function makes are shown as something that Python can read."""
    return signature and signature.replace("<factory>", "..."), returned


def _is_bare_field(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples, which the class's docstring describes; None leaves the others as they are."""
    return True if str(value.__doc__).startswith("Alias for field number") else None
