"""Facts about an object as HTML, which notebooks show instead of its ``repr``."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from serab_byols.display.printable import printable

_LEFT = ' style="text-align: left"'


def html_table(title: str, facts: Mapping[str, str]) -> str:
    """A table with a row for each fact. All text is escaped: names of files may hold HTML.

    Example:
        >>> html_table("Clip", {"file": "a<b>.wav"}).count("&lt;b&gt;")
        1
    """
    rows = "".join(
        f"<tr><th{_LEFT}>{_text(name)}</th><td{_LEFT}>{_text(value)}</td></tr>"
        for name, value in facts.items()
    )
    head = f'<thead><tr><th colspan="2"{_LEFT}>{_text(title)}</th></tr></thead>'
    return f"<table>{head}<tbody>{rows}</tbody></table>"


def _text(text: str) -> str:
    return escape(printable(text))
