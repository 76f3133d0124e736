"""``serab-byols list``: the weights that have a name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from serab_byols.checkpoint import registry
from serab_byols.checkpoint.cache import cache_folder
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.checkpoint.resolve import local_copy
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, Commands, printable, say
from serab_byols.errors import CheckpointError


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "list",
        help="show the weights that have a name",
        description="Show the weights that load_model, embed, info and convert know by name.",
    )
    parser.add_argument("--json", action="store_true", help="for programs, with addresses and digests")
    parser.add_argument("--cache-dir", metavar="DIR", help="where downloads are (default: the user's cache)")
    parser.set_defaults(run=_list, error_status=EXIT_BAD_FILES)


def _list(options: argparse.Namespace) -> int:
    rows = [*_bundled(), *(_published(weights, options.cache_dir) for weights in registry.PUBLISHED)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    table = [("NAME", "ENCODER", "D", "MB", "LICENCE", "WHERE"), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
    return EXIT_OK


def _bundled() -> list[dict[str, Any]]:
    rows = []
    for path in registry.bundled_paths():
        try:
            weights = registry.describe_bundled(path)
        except CheckpointError as error:
            say(str(error))  # the others are still worth showing
            continue
        rows.append(
            {
                "name": weights.name,
                "encoder": weights.encoder,
                "embedding_size": weights.embedding_size,
                "bytes": path.stat().st_size,
                "licence": weights.licence,
                "citation": weights.citation,
                "present": True,
                "path": str(path),
                "default": weights.name == registry.DEFAULT_NAME,
            }
        )
    return rows


def _published(weights: PublishedWeights, cache_dir: str | None) -> dict[str, Any]:
    path = _whereabouts(weights, cache_dir)
    return {
        "name": weights.name,
        "encoder": weights.encoder,
        "embedding_size": weights.embedding_size,
        "bytes": weights.n_bytes,
        "licence": weights.licence,
        "citation": weights.citation,
        "present": path is not None,
        "path": None if path is None else str(path),
        "default": False,
        "file": weights.file_name,
        "url": weights.url,
        "sha256": weights.sha256,
        "git_blob_id": weights.git_blob_id,
    }


def _whereabouts(weights: PublishedWeights, cache_dir: str | None) -> Path | None:
    """Where a file of that name and size is; whether it is the one is seen when it is loaded."""
    path = local_copy(weights) or cache_folder(cache_dir) / weights.file_name
    if path.is_file() and weights.n_bytes in (None, path.stat().st_size):
        return path
    return None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size = "?" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
    where = row["path"] or f"serab-byols download {row['name']}"
    cells = (row["name"], row["encoder"], str(row["embedding_size"]), size, row["licence"] or "-", where)
    return tuple(map(printable, cells))
