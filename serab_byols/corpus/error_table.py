"""Tables of what could not be read: CSV, one row for each file or segment."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from serab_byols.atomic_write import atomic_write

SEGMENT_COLUMNS = ("file", "start", "end", "error")


def write_error_table(
    path: Path, rows: Iterable[Sequence[object]], columns: Sequence[str] = ("file", "error")
) -> int:
    """Write a CSV file and return the number of rows; without any, remove the one of an earlier run."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        path.unlink(missing_ok=True)
        return 0
    with (
        atomic_write(path) as scratch,
        scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerow(map(_no_formula, first))
        n_rows = 1
        for row in rows:
            writer.writerow(map(_no_formula, row))
            n_rows += 1
    return n_rows


def _no_formula(cell: object) -> object:
    """Spreadsheets would run a cell that begins like a formula; a quote before it makes it text."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "@", "\t", "\r")) else cell
