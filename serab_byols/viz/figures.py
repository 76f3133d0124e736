"""What the plots share: figures at the width of a column of a paper, and their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serab_byols.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_MM = 85.0
DPI = 300
FONT_POINTS = 7.0
_MM_PER_INCH = 25.4


def check_can_plot() -> None:
    """Check before the work that pictures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "plotting") from error


def column_size(height_mm: float) -> tuple[float, float]:
    """Width and height in inches of a figure that fills a column of a paper."""
    return COLUMN_MM / _MM_PER_INCH, height_mm / _MM_PER_INCH


def column_figure(height_mm: float, *, of_pyplot: bool) -> Figure:
    """A figure at a column's width.

    Args:
        height_mm: of the figure.
        of_pyplot: whether it is pyplot's, so that notebooks show it; otherwise it needs no window system.
    """
    check_can_plot()
    options: dict[str, Any] = {"figsize": column_size(height_mm), "layout": "constrained", "dpi": 150}
    if of_pyplot:
        from matplotlib import pyplot

        return pyplot.figure(**options)
    from matplotlib.figure import Figure

    return Figure(**options)


def set_text_size(figure: Figure) -> None:
    """Small text and thin lines, for a figure of ours; other people's figures keep theirs."""
    for axes in (each for parent in figure.axes for each in (parent, *parent.child_axes)):
        axes.tick_params(labelsize=FONT_POINTS - 1, width=0.5, length=2.5)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(FONT_POINTS)
        for spine in axes.spines.values():
            spine.set_linewidth(0.5)
        axes.xaxis.offsetText.set_fontsize(FONT_POINTS - 1)
    figure.align_ylabels()


def plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
