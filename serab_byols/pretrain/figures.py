"""Pictures of a training: its loss, and what the network sees."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from serab_byols.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 200


def _figure(n_rows: int, n_columns: int, width: float, height: float) -> Figure:
    """A figure that no window system is needed for."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "pretrain", "drawing") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots(n_rows, n_columns, squeeze=False)
    return figure


def draw_loss(log: Path, picture: Path) -> None:
    """Loss (with its parts) and spread of the embeddings over the steps of a CSV log, as PNG."""
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = np.array([int(row["step"]) for row in rows])
    names = [name for name in rows[0] if name not in ("step", "spread", "lr", "crops_per_s")]
    figure = _figure(2, 1, 8, 6)
    above, below = figure.axes
    for name in names if len(names) > 2 else names[:1]:
        values = np.array([float(row[name]) for row in rows])
        above.plot(*_smoothed(steps, values), label=name)
    above.set_yscale("log")  # the first steps would leave no room for the others
    above.set_ylabel("loss")
    above.legend()
    below.plot(*_smoothed(steps, np.array([float(row["spread"]) for row in rows])))
    below.set_ylabel("spread of the embeddings")
    below.set_ylim(bottom=0)
    below.set_xlabel("step (each point a mean of several)" if len(rows) > _POINTS else "step")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120, format="png")


def _smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal parts, where there are more points than a picture can show."""
    parts = min(_POINTS, len(steps))
    pieces = np.array_split(np.arange(len(steps)), parts)
    return np.array([steps[p].mean() for p in pieces]), np.array([values[p].mean() for p in pieces])


def draw_views(names: list[str], log_mel: torch.Tensor, views: list[torch.Tensor], picture: Path) -> None:
    """Rows of clips: the log-mel (n, 64, T) and, beside it, each view (n, 1, 64, T); as PNG."""
    columns = [log_mel, *(view[:, 0] for view in views)]
    titles = ["log-mel", *(f"view {k}" for k in range(1, len(columns)))]
    figure = _figure(len(log_mel), len(columns), 3.2 * len(columns), 1.7 * len(log_mel) + 0.4)
    grid = np.array(figure.axes).reshape(len(log_mel), len(columns))
    for row, name in enumerate(names):
        for column, batch in enumerate(columns):
            axes = grid[row, column]
            axes.imshow(batch[row].cpu().numpy(), origin="lower", aspect="auto", cmap="magma")
            axes.set_title(titles[column] if row == 0 else "", fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        grid[row, 0].set_ylabel(name[-22:], fontsize=7)
    figure.savefig(picture, dpi=110, format="png")
