"""What the commands share: exit statuses, options, types of options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from serab_byols.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

EXIT_OK, EXIT_BAD_FILES, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

Commands = argparse._SubParsersAction
"""What a command's ``add_parser`` adds itself to."""


def add_cache_dir(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--cache-dir``, which :func:`serab_byols.cli.main` puts in force for the whole command."""
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="folder for downloads (default: SERAB_BYOLS_CACHE, else the user's cache)",
    )


def add_device(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--device``, checked."""
    parser.add_argument(
        "--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps, ... (default: %(default)s)"
    )


def add_normalization(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--normalization``, by a rule under which a clip's embedding depends on the clip alone."""
    parser.add_argument(
        "--normalization",
        type=normalization_rule,
        default="auto",
        metavar="RULE",
        help="auto (statistics of the checkpoint, else clip), clip (each clip's own), or MEAN,STD "
        "(default: %(default)s)",
    )


def add_frames(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--frame-duration``, ``--hop-size`` and ``--dense``."""
    from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS

    for option, default_ms, what in (
        ("--frame-duration", FRAME_DURATION_MS, "length of a frame"),
        ("--hop-size", HOP_SIZE_MS, "distance between frames"),
    ):
        parser.add_argument(
            option,
            type=float,
            default=default_ms,
            metavar="MS",
            help=f"{what} in milliseconds (default: %(default)g)",
        )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="approximate frames at a fraction of the cost (default and resnetish34)",
    )


def normalization_rule(text: str) -> str | tuple[float, float]:
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


def device(text: str) -> torch.device:
    from serab_byols.model import usable_device

    try:
        return usable_device(text)
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def mean_std(text: str) -> tuple[float, float]:
    value = normalization_rule(text)
    if isinstance(value, str):
        raise argparse.ArgumentTypeError(f"expected MEAN,STD, got {text!r}")
    return value
