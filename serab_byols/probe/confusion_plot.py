"""The confusion matrix as a picture."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serab_byols.atomic_write import atomic_write
from serab_byols.errors import InvalidInputError, missing_extra
from serab_byols.paths import as_path
from serab_byols.probe.results import ProbeResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL_INCHES = 0.34
SMALLEST_INCHES = 3.2
MARGIN_INCHES = 2.3
DPI = 120
MOST_LETTERS = 24


def check_can_draw() -> None:
    """Check before the work that pictures can be drawn.

    Raises:
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "matplotlib", "probe", "drawing a confusion matrix") from error


def draw_confusion(result: ProbeResult, path: str | os.PathLike[str]) -> Path:
    """Write the confusion matrix of a result as PNG: colours are shares of the row, numbers are counts.

    Args:
        result: from :func:`probe`.
        path: of the PNG; the file appears whole or not at all.

    Returns:
        The path.

    Raises:
        InvalidInputError: not a result, or what is at ``path`` is not a regular file.
        MissingExtraError: matplotlib or scikit-learn is not installed.
        OSError: the folder does not exist or cannot be written.
    """
    if not isinstance(result, ProbeResult):
        raise InvalidInputError(f"this draws one result of probe, got {type(result).__name__}")
    check_can_draw()
    from matplotlib.figure import Figure

    inches = max(SMALLEST_INCHES, CELL_INCHES * len(result.labels)) + MARGIN_INCHES
    # A figure of its own rather than pyplot's: no window, no global state, any thread.
    figure = Figure(figsize=(inches, inches), layout="constrained")
    _draw(figure, result)
    path = as_path(path, "the output")
    with atomic_write(path) as scratch, warnings.catch_warnings():
        # Labels may be in a script that the font lacks; their boxes are no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(scratch, format="png", dpi=DPI)
    return path


def _draw(figure: Figure, result: ProbeResult) -> None:
    from sklearn.metrics import ConfusionMatrixDisplay

    axes = figure.subplots()
    counts = result.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [_short(label, MOST_LETTERS).replace("$", r"\$") for label in result.labels]
    display = ConfusionMatrixDisplay(shares, display_labels=labels)
    shades = {"vmin": 0.0, "vmax": 1.0}
    display.plot(ax=axes, cmap="Blues", xticks_rotation="vertical", im_kw=shades, colorbar=False)
    figure.colorbar(display.im_, ax=axes, fraction=0.04, pad=0.02, label="share of the true label's clips")
    # Four digits of the larger size are wider than the smallest cell.
    size = 9 if counts.max() < 1000 or len(counts) * CELL_INCHES < SMALLEST_INCHES / 2 else 6
    for count, text in zip(counts.flat, display.text_.flat):
        text.set(text=str(count) if count else "", fontsize=size)
    axes.tick_params(labelsize=8)
    axes.set(xlabel="predicted label", ylabel="true label")
    names = f"{_short(result.task, 40)}, {_short(result.features, 40)}"
    scores = f"accuracy {result.accuracy:.3f}, UAR {result.uar:.3f}"
    axes.set_title(f"{names}\n{scores}", fontsize=9, parse_math=False)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
