"""What the commands share: exit statuses, types of options, words to the user."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EXIT_OK, EXIT_BAD_FILES, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

Commands = argparse._SubParsersAction
"""What a command's ``add_parser`` adds itself to."""


def say(message: str) -> None:
    """One line to the user, on stderr."""
    print(f"serab-byols: {message}", file=sys.stderr)


def printable(text: str) -> str:
    """What a file says of itself may hold what moves the cursor, or what no encoding holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
    import torch

    try:
        chosen = torch.device(text)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"cannot use device {text!r}: {reason}") from None
    return chosen


def mean_std(text: str) -> tuple[float, float]:
    value = normalization_rule(text)
    if isinstance(value, str):
        raise argparse.ArgumentTypeError(f"expected MEAN,STD, got {text!r}")
    return value
