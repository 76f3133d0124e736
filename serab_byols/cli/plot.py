"""``serab-byols plot``: a recording over time, or a map of embeddings, as a picture."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from serab_byols.atomic_write import atomic_write, check_not_an_input, check_replaceable
from serab_byols.checkpoint import load_model
from serab_byols.cli.options import (
    EXIT_OK,
    EXIT_USAGE,
    Commands,
    add_cache_dir,
    add_device,
    add_frames,
    add_normalization,
)
from serab_byols.cli.standard_streams import mp3_decoder_silenced
from serab_byols.errors import InvalidInputError
from serab_byols.viz.embedding_plot import map_height_mm, plot_embeddings
from serab_byols.viz.figures import DPI, check_can_plot, column_figure, set_text_size
from serab_byols.viz.projection import METHODS
from serab_byols.viz.table_rows import read_table_rows
from serab_byols.viz.timestamp_plot import HEIGHT_MM, plot_timestamps, timestamp_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "plot",
        description="Draw a picture at the width of a paper's column, 85 mm. Its format is that of the "
        "output's suffix: PNG (300 dpi), PDF or SVG.",
        examples=(
            "serab-byols plot timestamps clip.wav -o clip.png",
            "serab-byols plot embeddings embeddings.parquet --colour label -o map.png",
        ),
        exit_status="0 when the picture was made, 2 when not.",
    )
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    _add_timestamps(kinds)
    _add_embeddings(kinds)


def _add_timestamps(kinds: Commands) -> None:
    parser = kinds.add_parser(
        "timestamps",
        help="a recording: waveform, log-mel, self-similarity and novelty of its timestamp embeddings",
        description="Draw a recording over time: waveform, log-mel, cosine similarity of every two frames, "
        "and where it changes (novelty).",
        examples=(
            "serab-byols plot timestamps clip.wav -o clip.png",
            "serab-byols plot timestamps lecture.mp3 --start 60 --end 120 --hop-size 100 -o minute.pdf",
        ),
    )
    parser.add_argument("file", metavar="FILE", help="an audio file")
    _add_output(parser)
    parser.add_argument(
        "--model",
        default="",
        metavar="CKPT",
        help="checkpoint file or name of weights (default: the bundled ones)",
    )
    add_cache_dir(parser)
    parser.add_argument("--start", type=float, metavar="S", help="begin here, in seconds")
    parser.add_argument("--end", type=float, metavar="S", help="end here, in seconds")
    add_frames(parser)
    parser.add_argument(
        "--kernel",
        type=float,
        metavar="S",
        help="seconds that novelty looks to each side (default: a frame's length)",
    )
    add_normalization(parser)
    add_device(parser)
    parser.set_defaults(run=_plot_timestamps, error_status=EXIT_USAGE)


def _add_embeddings(kinds: Commands) -> None:
    parser = kinds.add_parser(
        "embeddings",
        help="a map of a table of embeddings",
        description="Draw the embeddings of a table as points of a plane: principal components, or UMAP.",
        examples=(
            "serab-byols plot embeddings embeddings.parquet -o map.png",
            "serab-byols plot embeddings embeddings/ --colour speaker --method umap -o map.pdf",
        ),
    )
    add_table(parser)
    _add_output(parser)
    add_map_options(parser, default="pca")
    parser.set_defaults(run=_plot_embeddings, error_status=EXIT_USAGE)


def add_table(parser: argparse.ArgumentParser) -> None:
    """The positional argument TABLE."""
    parser.add_argument(
        "table", metavar="TABLE", help="a .parquet or .npz table, or a dataset folder, as written by embed"
    )


def add_map_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """``--colour``, ``--method``, ``--seed``."""
    parser.add_argument("--colour", metavar="COLUMN", help="column of the table that colours the points")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=default,
        help="principal components, UMAP, or auto: UMAP if it is installed (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of UMAP (default: %(default)s)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help=f"the picture: {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
    )


def _plot_timestamps(options: argparse.Namespace) -> int:
    _check_output(options.output, [options.file, options.model])
    model = load_model(options.model, normalization=options.normalization, device=options.device)
    figure = column_figure(HEIGHT_MM, of_pyplot=False)
    axes = timestamp_axes(figure)
    with mp3_decoder_silenced():
        plot_timestamps(
            options.file,
            model,
            start=options.start,
            end=options.end,
            frame_duration=options.frame_duration,
            hop_size=options.hop_size,
            dense=options.dense,
            kernel_s=options.kernel,
            axes=axes,
        )
    set_text_size(figure)
    _save(figure, options.output)
    return EXIT_OK


def _plot_embeddings(options: argparse.Namespace) -> int:
    _check_output(options.output, [options.table])
    table = read_table_rows(options.table)
    check_not_an_input([options.output], table.sources)
    figure = column_figure(map_height_mm(table, options.colour), of_pyplot=False)
    plot_embeddings(
        table, colour=options.colour, method=options.method, seed=options.seed, axes=figure.subplots()
    )
    set_text_size(figure)
    _save(figure, options.output)
    return EXIT_OK


def _check_output(path: Path, inputs: Iterable[str]) -> None:
    """Check before the work that the picture can be drawn and written."""
    check_can_plot()
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInputError(f"the output must end in {', '.join(SUFFIXES)}, got {path.name!r}")
    if not os.access(path.parent, os.W_OK):
        raise InvalidInputError(f"the folder {path.parent} does not exist or cannot be written to")
    check_replaceable(path)
    check_not_an_input([path], inputs)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as scratch, warnings.catch_warnings():
        # Names may be in a script that the font lacks; their boxes are no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(scratch, format=path.suffix[1:].lower(), dpi=DPI)
