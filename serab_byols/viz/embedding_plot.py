"""A map of embeddings on matplotlib axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from serab_byols.paths import AnyPath
from serab_byols.viz.category_styles import COLOURS, OTHER_COLOUR, categories, is_scale, style
from serab_byols.viz.figures import FONT_POINTS, check_can_plot, column_figure, plain, set_text_size
from serab_byols.viz.projection import project
from serab_byols.viz.table_rows import TableRows, read_table_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_HEIGHT_MM = 80.0
_LEGEND_ROW_MM = 3.6
SYMBOLS = ("o", "s", "^")
"""By the number of a category's symbol."""

_MOST_LETTERS = 18
_LEGEND_COLUMNS = 3
_LEGEND_POINTS_BELOW = 28.0
"""Below the axes, their numbers and their label, however high the axes are."""


def plot_embeddings(
    table: DataFrame | TableRows | AnyPath,
    *,
    colour: str | None = None,
    method: str = "pca",
    seed: int = 0,
    axes: Axes | None = None,
) -> Axes:
    """Draw embeddings as points of a plane.

    Args:
        table: a DataFrame with a column ``embedding``, or a ``.parquet`` or ``.npz`` table or a dataset
            folder that ``serab-byols embed`` wrote; of scenes or of frames.
        colour: column that colours the points. Text and a few whole numbers are categories, of which the 24
            most common have a colour and a symbol; other numbers are a scale.
        method: ``"pca"``, principal components of embeddings of length one, ``"umap"`` (extra ``umap``), or
            ``"auto"``: UMAP if it is installed.
        seed: of UMAP.
        axes: to draw on; by default of a new figure of pyplot's, 85 mm wide.

    Returns:
        The axes.

    Raises:
        InvalidInputError: the table cannot be read, or has no such column; an unknown method.
        MissingExtraError: matplotlib, pyarrow or UMAP is needed and not installed.

    Example:
        >>> table = pandas.DataFrame({"embedding": list(np.eye(4)), "label": ["a", "a", "b", "b"]})
        >>> axes = serab_byols.viz.plot_embeddings(table, colour="label")
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['a', 'b']
    """
    check_can_plot()
    read = read_table_rows(table)
    values = None if colour is None else read.column(colour)
    projection = project(read.embedding, method, seed=seed)
    figure = None
    if axes is None:
        figure = column_figure(map_height_mm(read, colour), of_pyplot=True)
        axes = figure.subplots()
    size = float(np.clip(2000.0 / len(read), 2.0, 14.0))  # points squared
    if values is None or colour is None:
        _scatter(axes, projection.points, size, color=COLOURS[0])
    elif is_scale(values):
        _draw_scale(axes, projection.points, size, values, colour)
    else:
        _draw_categories(axes, projection.points, size, values, colour)
    axes.set(xlabel=projection.labels[0], ylabel=projection.labels[1])
    axes.margins(0.06)
    axes.locator_params(nbins=5)
    if projection.method == "umap":  # whose distances have no unit
        axes.set(xticks=[], yticks=[])
    if figure is not None:
        set_text_size(figure)
    return axes


def map_height_mm(table: TableRows, colour: str | None) -> float:
    """Height of a figure whose legend takes no room from the map."""
    values = None if colour is None else table.column(colour)
    n_names = 0 if values is None or is_scale(values) else len(categories(values).names)
    return _HEIGHT_MM + _LEGEND_ROW_MM * max(0, math.ceil(n_names / _LEGEND_COLUMNS) - 2)


def _scatter(axes: Axes, points: np.ndarray, size: float, **options: Any) -> Any:
    # As an image even in a vector format, where 20 000 circles would be slow to show.
    return axes.scatter(
        points[:, 0], points[:, 1], s=size, linewidths=0, rasterized=len(points) > 2000, **options
    )


def _draw_scale(axes: Axes, points: np.ndarray, size: float, values: np.ndarray, name: str) -> None:
    is_known = np.isfinite(values)
    if not is_known.all():
        _scatter(axes, points[~is_known], size, color=OTHER_COLOUR)
    drawn = _scatter(axes, points[is_known], size, c=values[is_known], cmap="viridis")
    beside = axes.inset_axes((1.02, 0.0, 0.03, 1.0))
    axes.figure.colorbar(drawn, cax=beside).set_label(plain(with_unit(name)))


def with_unit(name: str) -> str:
    """The name of a column, with its unit if it is one of ours."""
    return f"{name} (s)" if name in ("start", "end", "time") else name


def _draw_categories(axes: Axes, points: np.ndarray, size: float, values: np.ndarray, name: str) -> None:
    given = categories(values)
    codes = list(range(len(given.names)))
    handles = {}
    for code in reversed(codes):  # so that all others, which come last, lie below
        colour, symbol = style(code, given)
        label = plain(_short(given.names[code] or "(none)"))
        rows = points[given.codes == code]
        handles[code] = _scatter(axes, rows, size, color=colour, marker=SYMBOLS[symbol], label=label)
    from matplotlib.transforms import ScaledTranslation

    below = ScaledTranslation(0, -_LEGEND_POINTS_BELOW / 72, axes.figure.dpi_scale_trans)
    legend = axes.legend(
        handles=[handles[code] for code in sorted(handles)],
        title=plain(name),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=axes.transAxes + below,
        ncols=min(len(handles), _LEGEND_COLUMNS),
        fontsize=FONT_POINTS - 1,
        title_fontsize=FONT_POINTS,
        frameon=False,
        borderaxespad=0.0,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    handles_shown: list[Any] = legend.legend_handles
    for handle in handles_shown:
        handle.set_sizes([14.0])


def _short(text: str) -> str:
    """Without its middle: beginnings and ends of file names tell more."""
    half = _MOST_LETTERS // 2
    return text if len(text) <= _MOST_LETTERS else f"{text[: half - 1]}…{text[-half:]}"
