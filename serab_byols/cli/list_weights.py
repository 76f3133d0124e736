"""``serab-byols list``: the weights that have a name."""

from __future__ import annotations

import argparse
import json
from typing import Any

from serab_byols.checkpoint import read_checkpoint, registry
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.checkpoint.weights_cache import cache_folder, local_copy
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, Commands, add_cache_dir
from serab_byols.display.printable import printable
from serab_byols.errors import CheckpointError
from serab_byols.normalization import Statistics


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "list",
        help="show the weights that have a name",
        description="Show the weights that load_model and the other commands know by name. MEAN,STD: "
        "what normalization 'auto' stands for, fixed numbers or each clip's own.",
        examples=("serab-byols list", "serab-byols list --json"),
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with URLs and digests")
    add_cache_dir(parser)
    parser.set_defaults(run=_list, error_status=EXIT_BAD_FILES)


def _list(options: argparse.Namespace) -> int:
    rows = [*_bundled(), *(_published(weights) for weights in registry.PUBLISHED)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    table = [("NAME", "ENCODER", "D", "MB", "MEAN,STD", "LICENCE", "WHERE"), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
    return EXIT_OK


def _bundled() -> list[dict[str, Any]]:
    rows = []
    for name, path in registry.bundled().items():
        try:
            checkpoint = read_checkpoint(path)
            embedding_size = checkpoint.build_encoder().embedding_size
        except CheckpointError as error:
            log(str(error))  # and go on: the others are still worth showing
            continue
        licence, citation = (checkpoint.training_facts.get(key) for key in ("licence", "citation"))
        rows.append(
            {
                "name": name,
                "encoder": checkpoint.encoder,
                "embedding_size": embedding_size,
                "bytes": path.stat().st_size,
                "normalization": _normalization(checkpoint.statistics),
                "licence": None if licence is None else str(licence),
                "citation": None if citation is None else str(citation),
                "present": True,
                "path": str(path),
                "default": name == registry.DEFAULT_NAME,
                "default_of_encoder": name == registry.DEFAULT_WEIGHTS.get(checkpoint.encoder),
            }
        )
    return rows


def _published(weights: PublishedWeights) -> dict[str, Any]:
    path = local_copy(weights) or cache_folder() / weights.file_name
    # Whether it has the published bytes is verified when it is loaded.
    present = path.is_file() and weights.n_bytes in (None, path.stat().st_size)
    return {
        "name": weights.name,
        "encoder": weights.encoder,
        "embedding_size": weights.embedding_size,
        "bytes": weights.n_bytes,
        "normalization": _normalization(weights.statistics),
        "normalization_source": weights.statistics_source,
        "licence": weights.licence,
        "citation": weights.citation,
        "present": present,
        "path": str(path) if present else None,
        "default": False,
        "default_of_encoder": False,
        "file": weights.file_name,
        "url": weights.url,
        "sha256": weights.sha256,
        "git_blob_id": weights.git_blob_id,
    }


def _normalization(statistics: Statistics | None) -> dict[str, float] | None:
    """What ``normalization="auto"`` uses; None: each clip's own statistics."""
    return None if statistics is None else statistics._asdict()


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size = "?" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
    fixed = row["normalization"]
    mean_std = "clip" if fixed is None else f"{fixed['mean']:.3g},{fixed['std']:.3g}"
    where = row["path"] or f"serab-byols download {row['name']}"
    name = row["name"]
    if row["default"]:
        name += " (default)"
    elif row["default_of_encoder"]:
        name += f" (default of {row['encoder']})"
    licence = row["licence"] or "-"
    cells = (name, row["encoder"], str(row["embedding_size"]), size, mean_std, licence, where)
    return tuple(map(printable, cells))
