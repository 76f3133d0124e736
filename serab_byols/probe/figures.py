"""The confusion matrix as a picture."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serab_byols.atomic_write import atomic_write
from serab_byols.errors import missing_extra
from serab_byols.probe.evaluation import ProbeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_INCHES = 0.34
SMALLEST_INCHES = 3.2
MARGIN_INCHES = 2.3
DPI = 120
MOST_LETTERS = 24
DARK = 0.55
"""Above this share of its row a cell is dark, and what is written on it white."""


def check_figures() -> None:
    """Find out before the work whether pictures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_extra("matplotlib", "probe", "drawing a confusion matrix") from error


def draw_confusion(result: ProbeResult, path: str | os.PathLike[str]) -> Path:
    """Write the confusion matrix of a result as PNG: shares of each row as shades, counts as numbers.

    Args:
        result: from :func:`probe`.
        path: where to; the file appears whole or not at all.

    Returns:
        The path.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the folder does not exist or cannot be written.
    """
    check_figures()
    from matplotlib.figure import Figure

    inches = max(SMALLEST_INCHES, CELL_INCHES * len(result.labels))
    # A figure of its own rather than pyplot's: no window, no global state, any thread.
    figure = Figure(figsize=(inches + MARGIN_INCHES, inches + MARGIN_INCHES), layout="constrained")
    _draw(figure, result)
    path = Path(path)
    with atomic_write(path) as scratch, warnings.catch_warnings():
        # Labels may be in a script that the font lacks; their boxes are no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(scratch, format="png", dpi=DPI)
    return path


def _draw(figure: Figure, result: ProbeResult) -> None:
    axes = figure.subplots()
    clips = result.confusion.sum(axis=1, keepdims=True)
    shares = result.confusion / np.maximum(clips, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the true label's clips")
    _write_counts(axes, result.confusion, shares)
    _name_labels(axes, result.labels)
    title = f"{_short(result.task, 40)}, {_short(result.features, 40)}\n"
    axes.set_title(
        f"{title}accuracy {result.accuracy:.3f}, UAR {result.uar:.3f}", fontsize=9, parse_math=False
    )


def _write_counts(axes: Axes, confusion: np.ndarray, shares: np.ndarray) -> None:
    # Four digits of the larger size are wider than the smallest cell.
    size = 9 if confusion.max() < 1000 or len(confusion) * CELL_INCHES < SMALLEST_INCHES / 2 else 6
    for row, column in np.argwhere(confusion > 0):
        colour = "white" if shares[row, column] > DARK else "black"
        axes.text(
            column,
            row,
            str(confusion[row, column]),
            ha="center",
            va="center",
            color=colour,
            fontsize=size,
        )


def _name_labels(axes: Axes, labels: tuple[str, ...]) -> None:
    names = [_short(label, MOST_LETTERS) for label in labels]
    places = range(len(labels))
    # Labels are text, not formulas: a dollar sign is a dollar sign.
    axes.set_xticks(places, names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("true label")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
