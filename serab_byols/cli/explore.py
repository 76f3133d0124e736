"""``serab-byols explore``: a page to look at and listen to a corpus."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from serab_byols.atomic_write import check_replaceable
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_OK, EXIT_USAGE, Commands
from serab_byols.cli.plot import add_map_options, add_table
from serab_byols.cli.standard_streams import flush_stdout, mp3_decoder_silenced
from serab_byols.display.printable import printable
from serab_byols.errors import InvalidInputError
from serab_byols.viz.clip_files import ClipFiles, clip_files, page_urls
from serab_byols.viz.explorer_page import (
    check_can_explore,
    check_page,
    explorer_content,
    page_html,
    write_page,
)
from serab_byols.viz.explorer_server import ExplorerServer, audio_urls
from serab_byols.viz.table_rows import TableRows, read_table_rows


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "explore",
        description="Make a page that shows a map of a table's embeddings, plays a clip at a click and lists "
        "its nearest neighbours; with search, lasso, and export of a selection as CSV. It is one file that "
        "works offline and plays the clips where they lie.",
        examples=(
            "serab-byols explore embeddings.parquet -o corpus.html --colour label",
            "serab-byols explore embeddings/ --sample 20000 -o corpus.html",
            "serab-byols explore embeddings.parquet --serve",
        ),
        exit_status="0 when the page was made or served until interrupted, 2 when not.",
    )
    add_table(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PAGE",
        help="the page (default, unless it is served: TABLE's name with .html in the current folder, where "
        "nothing is replaced)",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="serve the page to browsers on this machine until interrupted, with clips in formats that "
        "browsers do not play converted to WAV",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of --serve (default: a free one)")
    add_map_options(parser, default="auto")
    parser.add_argument(
        "--audio-root",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that relative file names of the table are relative to (default: the current one)",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="only N rows, drawn at random")
    parser.set_defaults(run=_explore, error_status=EXIT_USAGE)


def _explore(options: argparse.Namespace) -> int:
    check_can_explore()
    output = _output(options)
    table = _sampled(read_table_rows(options.table), options.sample, options.seed)
    clips = clip_files(table, options.audio_root)
    if output is not None:
        check_page(output, table, clips)
    _warn_of_missing(clips)
    content = explorer_content(table, clips, method=options.method, seed=options.seed)
    title = Path(os.path.abspath(options.table)).stem
    if output is not None:
        urls = page_urls(clips.paths, Path(os.path.abspath(output)).parent)
        write_page(output, page_html(content, urls, colour=options.colour, title=title))
        print(printable(str(output)))
    if options.serve:
        urls = audio_urls(clips.paths)
        _serve(page_html(content, urls, colour=options.colour, title=title, served=True), clips, options.port)
    return EXIT_OK


def _output(options: argparse.Namespace) -> Path | None:
    """Where the page goes; None if it is only served."""
    if options.output is not None:
        check_replaceable(options.output)
        return options.output
    if options.serve:
        return None
    path = Path(f"{Path(os.path.abspath(options.table)).stem}.html")
    if path.exists():
        raise InvalidInputError(f"{path} exists: name the page with -o")
    return path


def _sampled(table: TableRows, n_rows: int | None, seed: int) -> TableRows:
    if n_rows is None or n_rows >= len(table):
        return table
    if n_rows < 1:
        raise InvalidInputError(f"--sample must be at least 1, got {n_rows}")
    numbers = np.random.default_rng(seed).choice(len(table), n_rows, replace=False)
    return table.chosen(np.sort(numbers))


def _warn_of_missing(clips: ClipFiles) -> None:
    if clips.n_missing:
        log(
            f"{clips.n_missing} of {len(clips.names)} files are not where the table says, so they cannot be "
            "played; --audio-root says what their names are relative to"
        )


def _serve(page: str, clips: ClipFiles, port: int) -> None:
    with mp3_decoder_silenced(), ExplorerServer(page, clips.paths, port=port) as server:
        print(server.url)
        flush_stdout()
        log("serving until interrupted (Ctrl-C)")
        with suppress(KeyboardInterrupt):  # which is how it ends
            server.serve()
