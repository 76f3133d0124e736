"""Colours and symbols of categories, which people with any colour vision can tell apart."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
"""Okabe and Ito, "Color Universal Design" (2008); yellow, which is faint on white, comes last."""

OTHER_COLOUR = "#BBBBBB"
OTHER = "other"
N_SYMBOLS = 3
MOST_CATEGORIES = N_SYMBOLS * len(COLOURS)
_MOST_NUMBERS = 8
"""Whole numbers with no more different values are names, such as of folds."""


class Categories(NamedTuple):
    """A column as categories.

    Attributes:
        names: of the categories, sorted; the last one may be :data:`OTHER`.
        codes: which of them each row has, int64 (n,).
        has_other: whether the last one stands for all values that have no colour of their own.
    """

    names: list[str]
    codes: np.ndarray
    has_other: bool


def is_scale(column: np.ndarray) -> bool:
    """Whether a column's values are numbers on a scale, not names."""
    if column.dtype.kind == "f":
        return True
    return column.dtype.kind in "iu" and len(np.unique(column)) > _MOST_NUMBERS


def categories(column: np.ndarray) -> Categories:
    """The most common values of a column (n,), sorted; all others share one category."""
    values = column.tolist()
    counts = Counter(values)
    common = sorted(counts, key=lambda value: (-counts[value], str(value)))[:MOST_CATEGORIES]
    common.sort(key=lambda value: (isinstance(value, str), value))
    code_of = {value: code for code, value in enumerate(common)}
    codes = np.array([code_of.get(value, len(common)) for value in values], np.int64)
    has_other = len(counts) > len(common)
    names = [str(value) for value in common] + [OTHER] * has_other
    return Categories(names, codes, has_other)


def style(code: int, given: Categories) -> tuple[str, int]:
    """Colour and number of the symbol of a category."""
    if given.has_other and code == len(given.names) - 1:
        return OTHER_COLOUR, 0
    return COLOURS[code % len(COLOURS)], code // len(COLOURS)
