"""Text from files and their names, made safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """What a file says of itself may hold what moves the cursor, or what no encoding holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
