"""``serab-byols embed``: audio files into a table."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from serab_byols.atomic_write import check_not_an_input
from serab_byols.checkpoint import load_model
from serab_byols.cli.options import (
    EXIT_BAD_FILES,
    EXIT_OK,
    EXIT_USAGE,
    Commands,
    device,
    normalization_rule,
    printable,
    say,
)
from serab_byols.corpus.embedding import check_corpus_normalization, embed_segments
from serab_byols.corpus.provenance import describe_model
from serab_byols.corpus.segments import Segment, find_segments
from serab_byols.corpus.tables import check_output, open_table, write_error_table
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.model import ByolsModel

DTYPES = ("float32", "bfloat16", "float16")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "embed",
        description="Embed audio files into a table, one row per clip, or per frame with --timestamps.",
        epilog="Exit status: 0 when all went well, 1 when some files could not be embedded (they are "
        "listed on stderr and in OUT.errors.csv), 2 when there is no table.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders (searched recursively), or CSV lists with a column 'path' and "
        "optionally 'start' and 'end' in seconds",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="OUT.parquet or OUT.npz"
    )
    parser.add_argument(
        "--model",
        default="",
        help="checkpoint file, or a name as `serab-byols list` shows (default: the bundled)",
    )
    parser.add_argument(
        "--encoder", choices=list(ENCODERS), help="check that the checkpoint holds this encoder"
    )
    parser.add_argument("--timestamps", action="store_true", help="one row per frame")
    parser.add_argument(
        "--dense",
        action="store_true",
        help="approximate frames at a fraction of the cost (default and resnetish34)",
    )
    parser.add_argument(
        "--frame-duration",
        type=float,
        default=FRAME_DURATION_MS,
        metavar="MS",
        help="length of a frame in milliseconds (default: %(default)g)",
    )
    parser.add_argument(
        "--hop-size",
        type=float,
        default=HOP_SIZE_MS,
        metavar="MS",
        help="distance between frames in milliseconds (default: %(default)g)",
    )
    parser.add_argument(
        "--normalization",
        type=normalization_rule,
        default="auto",
        metavar="RULE",
        help="auto (statistics of the checkpoint, else clip), clip (each clip's own), or MEAN,STD "
        "(default: auto)",
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps, ...")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="precision of the encoder; half precision is faster on processors and GPUs that support it "
        "(default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=_embed, error_status=EXIT_USAGE)


def _embed(options: argparse.Namespace) -> int:
    output: Path = options.output
    check_output(output)
    segments = find_segments(options.inputs)
    if not segments:
        raise InvalidInputError("the lists given name no files")
    error_table = Path(f"{output}.errors.csv")
    if error_table.is_dir():
        raise InvalidInputError(f"the table of errors would be {error_table}, which is a folder")
    check_not_an_input((output, error_table), [*options.inputs, *(segment.path for segment in segments)])
    if not options.timestamps:
        _check_frame_options(options)
    model = load_model(
        options.model,
        options.encoder,
        normalization=options.normalization,
        device=options.device,
    )
    check_corpus_normalization(model)
    metadata = {**describe_model(model), "dtype": options.dtype}  # of the weights as they are stored
    model.to(getattr(torch, options.dtype))
    errors: list[tuple[str, str]] = []
    n_embedded, n_rows = _write_table(options, model, metadata, segments, errors)
    write_error_table(error_table, errors)
    if errors:
        where = f"see {output}.errors.csv"
        written = f"{output} has the rest" if n_embedded else f"{output} was not written"
        say(f"{len(errors)} of {len(segments)} clips could not be embedded ({where}); {written}")
    if n_embedded and not options.quiet:
        print(f"{output}: {n_rows} rows of {model.embedding_size} numbers from {n_embedded} clips")
    return EXIT_BAD_FILES if errors else EXIT_OK


def _check_frame_options(options: argparse.Namespace) -> None:
    """Options of frames do nothing for scenes."""
    default = (False, FRAME_DURATION_MS, HOP_SIZE_MS)
    if (options.dense, options.frame_duration, options.hop_size) != default:
        raise InvalidInputError("--dense, --frame-duration and --hop-size need --timestamps")


class _NothingEmbeddedError(Exception):
    """Leaves the output as it was."""


def _write_table(
    options: argparse.Namespace,
    model: ByolsModel,
    metadata: dict[str, Any],
    segments: list[Segment],
    errors: list[tuple[str, str]],
) -> tuple[int, int]:
    """Embed and write; returns the number of clips and rows, and adds to ``errors``."""
    from tqdm import tqdm

    grid = None
    frames = {}
    if options.timestamps:
        grid = FrameGrid(options.frame_duration, options.hop_size, model.sample_rate)
        frames = {"frame_duration_ms": grid.frame_ms, "hop_size_ms": grid.hop_ms, "dense": options.dense}
    quiet = options.quiet or not sys.stderr.isatty()
    n_embedded = 0
    with (
        suppress(_NothingEmbeddedError),
        tqdm(total=len(segments), unit="clip", disable=quiet) as bar,
        open_table(
            options.output,
            embedding_size=model.embedding_size,
            timestamps=options.timestamps,
            metadata={**metadata, **frames},
        ) as table,
    ):

        def on_error(segment: Segment, error: SerabByolsError) -> None:
            errors.append((segment.file, str(error)))
            with tqdm.external_write_mode(file=sys.stderr):
                say(printable(str(error)))
            bar.update()

        chunks = embed_segments(segments, model, grid, dense=options.dense, on_error=on_error)
        for _, of_one in groupby(chunks, key=attrgetter("index")):
            for chunk in of_one:
                table.add(chunk.record)
            n_embedded += 1
            bar.update()
        if not n_embedded:
            raise _NothingEmbeddedError
    return n_embedded, table.n_rows
