"""Plots of a training: its loss, and the first views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from serab_byols.errors import missing_extra
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.crops import CropReader
from serab_byols.pretrain.distributed import Share
from serab_byols.pretrain.views import Draws, Views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLIPS = 8
MAX_POINTS = 200


def _figure(n_rows: int, n_columns: int, width: float, height: float) -> Figure:
    """A figure that needs no window system."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "pretrain", "drawing") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots(n_rows, n_columns, squeeze=False)
    return figure


def plot_loss(log: Path, picture: Path) -> None:
    """Loss (with its parts) and spread of the embeddings over the steps of a CSV log, as PNG."""
    rows = np.genfromtxt(log, delimiter=",", names=True, ndmin=1)
    names = [name for name in rows.dtype.names or () if name not in ("step", "spread", "lr", "crops_per_s")]
    # Means over equal parts, where there are more points than a picture can show.
    parts = np.array_split(rows, min(MAX_POINTS, len(rows)))
    means = {name: [part[name].mean() for part in parts] for name in ("step", "spread", *names)}
    figure = _figure(2, 1, 8, 6)
    above, below = figure.axes
    for name in names if len(names) > 2 else names[:1]:
        above.plot(means["step"], means[name], label=name)
    above.set_yscale("log")  # the first steps would leave no room for the others
    above.set_ylabel("loss")
    above.legend()
    below.plot(means["step"], means["spread"])
    below.set_ylabel("spread of the embeddings")
    below.set_ylim(bottom=0)
    below.set_xlabel("step (each point a mean of several)" if len(rows) > MAX_POINTS else "step")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120, format="png")


def plot_first_views(config: PretrainConfig, reader: CropReader, picture: Path) -> None:
    """What the network would see of the first crops, were there statistics and crops to mix with; as PNG."""
    crops = reader.crops.at(0)
    clips, samples = zip(*(reader.read(*crop) for crop in crops))
    waveforms = torch.from_numpy(np.stack(samples))
    views = Views(config, n_to_learn=len(crops))
    draws = Draws(config.seed, 0, Share(rank=0, n_processes=1, n_own=len(crops)), waveforms.device)
    views(waveforms, draws)  # for the statistics and the crops to mix with
    seen, log_mel = views(waveforms, draws)
    columns = {"log-mel": log_mel} | {f"view {k}": view[:, 0] for k, view in enumerate(seen, start=1)}
    n_rows = min(len(crops), MAX_CLIPS)
    figure = _figure(n_rows, len(columns), 3.2 * len(columns), 1.7 * n_rows + 0.4)
    grid = np.array(figure.axes).reshape(n_rows, len(columns))
    for row in range(n_rows):
        for axes, (title, images) in zip(grid[row], columns.items()):
            axes.imshow(images[row].numpy(), origin="lower", aspect="auto", cmap="magma")
            axes.set_title(title if row == 0 else "", fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        name = Path(reader.crops.clips[clips[row]].segment.file).name
        grid[row, 0].set_ylabel(name[-22:], fontsize=7)
    figure.savefig(picture, dpi=110, format="png")
