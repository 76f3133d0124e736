"""The CSV log of a training: one row per step."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from serab_byols.atomic_write import atomic_write


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row, below a header where the file is new."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([row.keys(), row.values()] if is_new else [row.values()])


def keep_rows_before(path: Path, step: int) -> None:
    """Remove the rows of ``step`` and later ones, which will be written again."""
    if not path.exists():
        return
    # A kill or a power cut may have left half a row, or bytes that are not text.
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines()
    header, *rows = list(csv.reader(lines)) or [[]]
    rows = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) < step]
    if not rows:
        path.unlink()
        return
    with atomic_write(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
