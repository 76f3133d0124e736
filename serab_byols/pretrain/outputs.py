"""The files that a training writes."""

from __future__ import annotations

import csv
from pathlib import Path

from serab_byols.corpus.error_table import write_error_table
from serab_byols.errors import InvalidInputError


class Outputs:
    """The weights' file, and those beside it that are named after it.

    Raises:
        InvalidInputError: another ending than ``.safetensors``, or a folder that does not exist.
    """

    def __init__(self, weights: Path) -> None:
        if weights.suffix != ".safetensors":
            raise InvalidInputError(
                f"weights are written to a file ending in .safetensors, got {weights.name!r}"
            )
        if not weights.parent.is_dir():
            raise InvalidInputError(f"the folder {weights.parent} does not exist")
        self.weights = weights
        self.training = weights.with_suffix(".training.ckpt")
        self.log = weights.with_suffix(".log.csv")
        self.loss_plot = weights.with_suffix(".loss.png")
        self.errors = weights.with_suffix(".errors.csv")


def write_errors(path: Path, bad_files: list[tuple[str, str]], is_resumed: bool) -> None:
    """List the bad files of the whole training: those that an earlier run found stay."""
    if is_resumed and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            earlier = [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2]
        bad_files = list(dict.fromkeys([*earlier[1:], *bad_files]))
    write_error_table(path, bad_files)
