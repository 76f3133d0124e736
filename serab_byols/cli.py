"""The command ``serab-byols``: embed, info, convert."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import torch

from serab_byols._version import __version__
from serab_byols.checkpoint import (
    describe_model,
    load_model,
    read_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from serab_byols.embed import check_corpus_normalization, embed_parts
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.files import replaced_whole
from serab_byols.framing import FrameGrid
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS
from serab_byols.inputs import Segment, find_segments
from serab_byols.model import ByolsModel
from serab_byols.sinks import check_output, open_sink

EXIT_OK, EXIT_BAD_FILES, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
_NEGATIVE_PAIR = re.compile(r"-[\d.][^,]*,[^,]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(_with_negative_pairs(sys.argv[1:] if arguments is None else arguments))
    try:
        return options.run(options)
    except (SerabByolsError, OSError) as error:
        _say(f"error: {error}")
        return options.error_status
    except KeyboardInterrupt:
        _say("interrupted; nothing was written")
        return EXIT_INTERRUPTED


def _with_negative_pairs(arguments: Sequence[str]) -> list[str]:
    """``--normalization -6,5`` as ``--normalization=-6,5``, since argparse takes -6,5 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if _NEGATIVE_PAIR.fullmatch(argument) and joined and re.fullmatch(r"--\w[\w-]*", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _say(message: str) -> None:
    print(f"serab-byols: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serab-byols", description="BYOL-S speech embeddings of audio files."
    )
    parser.add_argument("--version", action="version", version=f"serab-byols {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_embed(commands)
    _add_info(commands)
    _add_convert(commands)
    return parser


def _add_embed(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "embed",
        help="embed audio files into a table",
        description="Embed audio files into a table, one row a clip or, with --timestamps, a frame.",
        epilog="Exit status: 0 when all went well, 1 when some files could not be embedded (they are "
        "listed on stderr and in OUT.errors.csv), 2 when nothing could be started.",
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
    parser.add_argument("--model", default="", help="checkpoint file (default: the bundled weights)")
    parser.add_argument(
        "--encoder", choices=list(ENCODERS), help="check that the checkpoint holds this encoder"
    )
    parser.add_argument("--timestamps", action="store_true", help="one row a frame")
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
        type=_normalization,
        default="auto",
        metavar="RULE",
        help="auto (statistics of the checkpoint, else clip), clip (each clip's own), or MEAN,STD "
        "(default: auto)",
    )
    parser.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, cuda:1, mps, ...")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=_embed, error_status=EXIT_USAGE)


def _normalization(text: str) -> str | tuple[float, float]:
    if text in ("auto", "clip"):
        return text
    if text in ("batch", "hear2021"):
        raise argparse.ArgumentTypeError(
            f"{text!r} shares statistics between the clips of one call, which has no meaning for a "
            "corpus of files: use auto, clip or MEAN,STD"
        )
    try:
        mean, std = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto, clip or MEAN,STD, got {text!r}") from None
    return mean, std


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"cannot use device {text!r}: {reason}") from None
    return device


def _embed(options: argparse.Namespace) -> int:
    output: Path = options.output
    check_output(output)
    segments = find_segments(options.inputs)
    if not segments:
        raise InvalidInputError("the lists given name no files")
    model = load_model(
        options.model,
        options.encoder,
        normalization=options.normalization,
        device=options.device,
    )
    check_corpus_normalization(model)
    errors: list[tuple[str, str]] = []
    n_embedded, n_rows = _write_table(options, model, segments, errors)
    _write_errors(Path(f"{output}.errors.csv"), errors)
    if errors:
        where = f"see {output}.errors.csv"
        written = f"{output} has the rest" if n_embedded else f"{output} was not written"
        _say(f"{len(errors)} of {len(segments)} clips could not be embedded ({where}); {written}")
    if n_embedded and not options.quiet:
        print(f"{output}: {n_rows} rows of {model.embedding_size} numbers from {n_embedded} clips")
    return EXIT_BAD_FILES if errors else EXIT_OK


class _NothingEmbeddedError(Exception):
    """Leaves the output as it was."""


def _write_table(
    options: argparse.Namespace,
    model: ByolsModel,
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
        open_sink(
            options.output,
            embedding_size=model.embedding_size,
            timestamps=options.timestamps,
            metadata={**describe_model(model), **frames},
        ) as sink,
    ):

        def on_error(segment: Segment, error: SerabByolsError) -> None:
            errors.append((segment.file, str(error)))
            with tqdm.external_write_mode(file=sys.stderr):
                _say(str(error))
            bar.update()

        parts = embed_parts(segments, model, grid, dense=options.dense, on_error=on_error)
        for _, of_one in groupby(parts, key=attrgetter("index")):
            for part in of_one:
                sink.add(part.record)
            n_embedded += 1
            bar.update()
        if not n_embedded:
            raise _NothingEmbeddedError
    return n_embedded, sink.n_rows


def _write_errors(path: Path, errors: list[tuple[str, str]]) -> None:
    """The list of failures, or nothing and no stale list either."""
    if not errors:
        path.unlink(missing_ok=True)
        return
    with (
        replaced_whole(path) as scratch,
        scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows([("file", "error"), *errors])


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("info", help="say what a checkpoint holds")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_info, error_status=EXIT_BAD_FILES)


def _info(options: argparse.Namespace) -> int:
    checkpoint = read_checkpoint(options.file)
    encoder = checkpoint.build_encoder()
    statistics = checkpoint.statistics
    facts = {
        "file": str(checkpoint.path),
        "bytes": os.path.getsize(checkpoint.path),
        "format": checkpoint.format,
        "written by": checkpoint.written_by,
        "encoder": checkpoint.encoder,
        "configuration": checkpoint.config,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "stored as": sorted({str(t.dtype).removeprefix("torch.") for t in checkpoint.state.values()}),
        "embedding size": encoder.embedding_size,
        "sample rate (Hz)": encoder.sample_rate,
        "normalization": None if statistics is None else statistics._asdict(),
        "training": checkpoint.training_facts,
        "weights sha256": weights_sha256(encoder),
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return EXIT_OK
    for name, value in facts.items():
        print(f"{name:18}{_printable(_readable(name, value))}")
    return EXIT_OK


def _readable(name: str, value: object) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "normalization" and value is None:
        return "none stored: 'auto' means each clip's own statistics"
    return f"{value:,}" if isinstance(value, int) else str(value or "-")


def _printable(text: str) -> str:
    """What a file says of itself may hold what moves the cursor, or what no encoding holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "convert", help="turn a published .pth file into a .safetensors that describes itself"
    )
    parser.add_argument("input", metavar="IN", help="a checkpoint of either format")
    parser.add_argument("output", metavar="OUT", type=Path, help="OUT.safetensors")
    parser.add_argument(
        "--statistics",
        type=_mean_std,
        metavar="MEAN,STD",
        help="log-mel statistics to store, which normalization 'auto' will then use",
    )
    parser.set_defaults(run=_convert, error_status=EXIT_BAD_FILES)


def _mean_std(text: str) -> tuple[float, float]:
    value = _normalization(text)
    if isinstance(value, str):
        raise argparse.ArgumentTypeError(f"expected MEAN,STD, got {text!r}")
    return value


def _convert(options: argparse.Namespace) -> int:
    model = load_model(options.input)
    facts = {"converted_from": Path(options.input).name}
    save_checkpoint(model, options.output, statistics=options.statistics, training_facts=facts)
    output = _printable(str(options.output))
    print(f"{output}: {model.encoder.name}, {model.embedding_size} numbers an embedding")
    return EXIT_OK
