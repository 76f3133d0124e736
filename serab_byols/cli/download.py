"""``serab-byols download``: published weights into the cache, or into a folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint import registry
from serab_byols.checkpoint.download import fetch
from serab_byols.checkpoint.registry import PublishedWeights
from serab_byols.checkpoint.resolve import local_copy, published_checkpoint
from serab_byols.checkpoint.verify import mismatch
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_INTERRUPTED, EXIT_OK, Commands, printable, say
from serab_byols.errors import InvalidInputError, SerabByolsError


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "download",
        help="get published weights by name",
        description="Download published weights, verify them, and print where they are. What is here "
        "already is verified and not downloaded again.",
        epilog="Exit status: 0 when all went well, 1 when some weights could not be had.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="as `serab-byols list` shows them")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="also put them there, under their published names"
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="where downloads are (default: the user's cache)")
    parser.set_defaults(run=_download, error_status=EXIT_BAD_FILES)


def _download(options: argparse.Namespace) -> int:
    for name in options.names:
        if name not in registry.names():
            raise InvalidInputError(registry.unknown_name(name))
    status = EXIT_OK
    try:
        for name in options.names:
            status = max(status, _download_one(name, options))
    except KeyboardInterrupt:
        say("interrupted; what has arrived is kept, and the same command continues it")
        return EXIT_INTERRUPTED
    return status


def _download_one(name: str, options: argparse.Namespace) -> int:
    """The exit status: a failure does not keep the other names from being downloaded."""
    try:
        print(printable(str(_place(name, options))), flush=True)
    except (SerabByolsError, OSError) as error:
        say(f"error: {error}")
        return EXIT_BAD_FILES
    return EXIT_OK


def _place(name: str, options: argparse.Namespace) -> Path:
    """Path of the verified file of that name."""
    weights = registry.published(name)
    if weights is None:
        bundled = registry.bundled_path(name)
        assert bundled is not None  # its name is among those that there are
        return bundled if options.output is None else _copied(bundled, options.output)
    if options.output is None:
        # Who names a cache wants it filled, whatever lies elsewhere.
        return fetch(weights, options.cache_dir) if options.cache_dir else published_checkpoint(weights)
    for here in (options.output / weights.file_name, local_copy(weights)):
        if here is not None and here.is_file() and mismatch(here, weights) is None:
            break
    else:
        here = fetch(weights, options.cache_dir)
    return _copied(here, options.output, weights)


def _copied(path: Path, folder: Path, weights: PublishedWeights | None = None) -> Path:
    """A copy in ``folder``, made if need be, that is whole or is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if target.exists() and target.samefile(path):
        return target
    with atomic_write(target) as scratch:
        shutil.copyfile(path, scratch)
        fault = None if weights is None else mismatch(scratch, weights)
        if fault is not None:
            raise OSError(f"the copy in {folder} went wrong: {fault}")
    return target
