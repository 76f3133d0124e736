"""``serab-byols info``: what a checkpoint says of itself."""

from __future__ import annotations

import argparse
import json
import os

from serab_byols.checkpoint import read_checkpoint, weights_sha256
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, Commands, add_cache_dir
from serab_byols.display.printable import printable

LABEL_WIDTH = 18
LINE_WIDTH = 100
"""Of facts of the training, such as the command; ``--json`` has them in full."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="show what a checkpoint says of itself",
        description="Show what a checkpoint says of itself: encoder, size, normalisation, training.",
        examples=(
            "serab-byols info weights.safetensors",
            "serab-byols info byols-audiontt-512-distilled",
            "serab-byols info weights.pth --json",
        ),
        exit_status="0 when all went well, 1 when the file cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", help="a checkpoint, or a name that `serab-byols list` shows")
    parser.add_argument("--json", action="store_true", help="as JSON, in full")
    add_cache_dir(parser)
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
        first, *others = _lines(name, value)
        print(f"{name:{LABEL_WIDTH}}{first}")
        for line in others:
            print(f"{'':{LABEL_WIDTH}}{line}")
    return EXIT_OK


def _lines(name: str, value: object) -> list[str]:
    """A fact in words: one line, or one for each entry of what is known of the training."""
    if name == "training" and isinstance(value, dict) and value:
        return [_shortened(f"{key}={_entry(item)}") for key, item in value.items()]
    if name == "normalization" and value is None:
        return ["none stored: 'auto' means each clip's own statistics"]
    if isinstance(value, dict) and value:
        return [printable(", ".join(f"{key}={item}" for key, item in value.items()))]
    if isinstance(value, list):
        return [", ".join(map(str, value))]
    return [f"{value:,}" if isinstance(value, int) else printable(str(value or "-"))]


def _entry(value: object) -> str:
    """Collections by what they hold: their numbers are for ``--json``."""
    return f"({', '.join(map(str, value))})" if isinstance(value, dict) else str(value)


def _shortened(text: str) -> str:
    text, width = printable(text), LINE_WIDTH - LABEL_WIDTH
    return text if len(text) <= width else f"{text[: width - 1]}…"
