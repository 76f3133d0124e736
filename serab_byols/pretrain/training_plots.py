"""Plots of a training: its loss, and the first views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from serab_byols.errors import missing_extra
from serab_byols.frontend import N_MELS, mel_edges_hz
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.crops import CropReader
from serab_byols.pretrain.distributed import Share
from serab_byols.pretrain.progress import SILENT, Reporting
from serab_byols.pretrain.views import Draws, Views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLIPS = 8
MAX_POINTS = 200

_MEL_TICKS = (0, 16, 32, 48, 63)


def _figure(n_rows: int, n_columns: int, width: float, height: float) -> Figure:
    """A figure that needs no window system."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "pretrain", "drawing") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots(n_rows, n_columns, squeeze=False)
    return figure


def plot_loss(log: Path, picture: Path) -> Figure:
    """Loss (with its parts) and spread of the embeddings over the steps of a CSV log, as PNG."""
    rows = np.genfromtxt(log, delimiter=",", names=True, ndmin=1)
    names = [name for name in rows.dtype.names or () if name not in ("step", "spread", "lr", "crops_per_s")]
    # Means over equal parts, where there are more points than a picture can show.
    parts = np.array_split(rows, min(MAX_POINTS, len(rows)))
    means = {name: np.array([part[name].mean() for part in parts]) for name in ("step", "spread", *names)}
    shown = names if len(names) > 2 else names[:1]
    marker = "o" if len(parts) == 1 else None  # of one point there is no line
    figure = _figure(2, 1, 8, 6)
    from matplotlib.ticker import MaxNLocator

    figure.suptitle(f"Pretraining of {log.name.removesuffix('.log.csv')}, {len(rows)} steps")
    above, below = figure.axes
    for name in shown:
        above.plot(means["step"], means[name], marker=marker, label=name.replace("_", " "))
    above.set_ylabel("loss (logarithmic)")
    _logarithmic_with_plain_numbers(above, np.concatenate([means[name] for name in shown]))
    if len(shown) > 1:
        above.legend()
    below.plot(means["step"], means["spread"], marker=marker)
    below.set_ylabel("spread of the embeddings,\nrelative to their length")
    below.set_ylim(bottom=0)
    below.set_xlabel("step (each point a mean of several)" if len(rows) > MAX_POINTS else "step")
    below.ticklabel_format(useOffset=False, style="plain")
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120, format="png")
    return figure


def _logarithmic_with_plain_numbers(axes: Axes, values: np.ndarray) -> None:
    """The first steps would leave no room for the others on a linear axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    positive = values[values > 0]
    if not len(positive):
        return
    axes.set_yscale("log")
    decades = np.log10(positive.max() / positive.min())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if decades > 1 else MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10f}".rstrip("0").rstrip(".")))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def plot_first_views(
    config: PretrainConfig, reader: CropReader, picture: Path, reporting: Reporting = SILENT
) -> Figure:
    """What the network would see of the first crops, were there statistics and crops to mix with; as PNG.

    At most eight crops are drawn. Colours are standard deviations of the log-mel, the same for all.
    """
    clips, samples = [], []
    crops = reader.crops.at(0)
    with reporting.track("first crops", len(crops), "crop") as progress:
        for crop in crops:
            clip, of_clip = reader.read(*crop)
            clips.append(clip)
            samples.append(of_clip)
            progress.update()
    waveforms = torch.from_numpy(np.stack(samples))
    views = Views(config, n_to_learn=len(crops))
    draws = Draws(config.seed, 0, Share(rank=0, n_processes=1, n_own=len(crops)), waveforms.device)
    views(waveforms, draws)  # for the statistics and the crops to mix with
    seen, log_mel = views(waveforms, draws)
    n_rows = min(len(crops), MAX_CLIPS)
    columns = {"log-mel": log_mel} | {f"view {k}": view[:, 0] for k, view in enumerate(seen, start=1)}
    columns = {title: images[:n_rows].numpy() for title, images in columns.items()}
    low, high = np.percentile(np.concatenate([images.ravel() for images in columns.values()]), (1, 99))
    figure = _figure(n_rows, len(columns), 3.2 * len(columns) + 1.2, 1.8 * n_rows + 1)
    figure.suptitle(f"The first crops of {config.crop_s:g} s, and the views that the encoder sees")
    grid = np.array(figure.axes).reshape(n_rows, len(columns))
    for row in range(n_rows):
        for axes, (title, images) in zip(grid[row], columns.items()):
            image = axes.imshow(
                images[row],
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=low,
                vmax=high,
                extent=(0, config.crop_s, -0.5, N_MELS - 0.5),
            )
            axes.set_title(title if row == 0 else "", fontsize=10)
            axes.tick_params(labelsize=7, labelbottom=row == n_rows - 1, labelleft=axes is grid[row, 0])
            axes.set_yticks(_MEL_TICKS, [f"{mel_edges_hz()[band + 1]:.0f}" for band in _MEL_TICKS])
        name = Path(reader.crops.clips[clips[row]].segment.file).name
        grid[row, 0].set_ylabel(f"{name[-22:]}\nmel band (Hz)", fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)", fontsize=8)
    bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 4 / n_rows), aspect=30)
    bar.set_label("log-mel (standard deviations from the mean)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.savefig(picture, dpi=110, format="png")
    return figure
