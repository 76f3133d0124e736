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
