"""``serab-byols download``: published weights into the cache, or into a folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint.registry import PublishedWeights, find_weights
from serab_byols.checkpoint.weights_cache import find_or_download
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, Commands, add_cache_dir
from serab_byols.display.printable import printable
from serab_byols.errors import SerabByolsError


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "download",
        help="download published weights",
        description="Download published weights, verify them, and print their paths. Files that are already "
        "on this machine are verified and not downloaded again.",
        examples=(
            "serab-byols download byols-audiontt-2048",
            "serab-byols download byols-audiontt-2048 byols-audiontt-512 -o checkpoints",
            "serab-byols download byols-audiontt-512 --cache-dir shared/weights",
        ),
        exit_status="0 when all went well, 1 when some weights could not be downloaded.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a name that `serab-byols list` shows")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="copy them there, under their published names"
    )
    add_cache_dir(parser)
    parser.set_defaults(run=_download, error_status=EXIT_BAD_FILES)


def _download(options: argparse.Namespace) -> int:
    found = [find_weights(name) for name in options.names]  # an unknown name downloads nothing
    return max([_download_one(weights, options) for weights in found])


def _download_one(weights: Path | PublishedWeights, options: argparse.Namespace) -> int:
    """The exit status: a failure does not keep the other weights from being downloaded."""
    try:
        print(printable(str(_place(weights, options.output, options.cache_dir))), flush=True)
    except (SerabByolsError, OSError) as error:
        log(f"error: {error}")
        return EXIT_BAD_FILES
    return EXIT_OK


def _place(weights: Path | PublishedWeights, output: Path | None, cache_dir: str | None) -> Path:
    """Path of the file, copied if it lies elsewhere than in the folder that was asked for."""
    path = weights if isinstance(weights, Path) else find_or_download(weights)
    folder = output or (Path(cache_dir) if cache_dir else None)
    if folder is None or path.parent.resolve() == folder.resolve():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / path.name) as scratch:
        shutil.copyfile(path, scratch)
    return folder / path.name
