"""``serab-byols export``: a model as a file for ONNX Runtime or torch.export."""

from __future__ import annotations

import argparse
from pathlib import Path

from serab_byols.atomic_write import check_not_an_input
from serab_byols.checkpoint import load_model
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, Commands, add_cache_dir, add_normalization
from serab_byols.display.printable import printable
from serab_byols.integrations.model_export import export_model


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a model for ONNX Runtime or torch.export",
        description="Write a model as one graph from waveform (batch, samples) to embedding (batch, D), with "
        "front end and normalisation.",
        examples=(
            "serab-byols export -o model.onnx",
            "serab-byols export byols-audiontt-2048 -o audiontt.onnx --normalization clip",
            "serab-byols export weights.safetensors -o model.pt2",
        ),
        exit_status="0 when all went well, 1 when there is no new file.",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs="?",
        default="",
        help="a checkpoint, or a name that `serab-byols list` shows (default: the weights of this package)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help="the file to write: OUT.onnx (extra 'onnx'), or OUT.pt2 for torch.export.load",
    )
    add_normalization(parser)
    add_cache_dir(parser)
    parser.set_defaults(run=_export, error_status=EXIT_BAD_FILES)


def _export(options: argparse.Namespace) -> int:
    if options.checkpoint:
        check_not_an_input([options.output], [options.checkpoint])
    model = load_model(options.checkpoint, normalization=options.normalization)
    path = export_model(model, options.output)
    print(
        f"{printable(str(path))}: {model.encoder.name}, waveform at {model.sample_rate} Hz to "
        f"{model.embedding_size} numbers, {path.stat().st_size / 1e6:.1f} MB"
    )
    return EXIT_OK
