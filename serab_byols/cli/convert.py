"""``serab-byols convert``: a checkpoint into the format of this library."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from serab_byols.checkpoint import load_model, save_checkpoint
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, Commands, add_cache_dir, mean_std
from serab_byols.display.printable import printable


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in this library's format",
        description="Write a checkpoint, such as a published .pth file, as a .safetensors file that "
        "describes itself.",
        examples=(
            "serab-byols convert weights.pth weights.safetensors",
            "serab-byols convert byols-audiontt-2048 audiontt.safetensors --fact licence=MIT",
            "serab-byols convert weights.pth weights.safetensors --statistics -6,5",
        ),
        exit_status="0 when all went well, 1 when there is no new file.",
    )
    parser.add_argument("input", metavar="IN", help="a checkpoint, or a name that `serab-byols list` shows")
    parser.add_argument("output", metavar="OUT", type=Path, help="the file to write, OUT.safetensors")
    parser.add_argument(
        "--statistics",
        type=mean_std,
        metavar="MEAN,STD",
        help="log-mel statistics to store, for normalization 'auto'",
    )
    parser.add_argument(
        "--fact",
        type=_fact,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a fact about these weights to store, such as licence=MIT; can be repeated",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type of the weights in the file (default: that of the input); float16 has half the bytes and "
        "moves embeddings by some 1e-3 of the largest value",
    )
    add_cache_dir(parser)
    parser.set_defaults(run=_convert, error_status=EXIT_BAD_FILES)


def _fact(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def _convert(options: argparse.Namespace) -> int:
    model = load_model(options.input)
    facts = {"converted_from": model.source, **dict(options.fact)}
    dtype = getattr(torch, options.dtype) if options.dtype else None
    save_checkpoint(model, options.output, statistics=options.statistics, training_facts=facts, dtype=dtype)
    output = printable(str(options.output))
    print(f"{output}: {model.encoder.name}, {model.embedding_size} numbers an embedding")
    return EXIT_OK
