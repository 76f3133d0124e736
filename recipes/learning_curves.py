"""Accuracy against crops seen in training: ``python recipes/learning_curves.py TABLE.csv PICTURE.png``.

The table has the columns ``weights``, ``seed``, ``crops`` and one for each task. A line of weights with
several seeds is their mean, and its bars reach from the least to the most.
"""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path

import pandas
from matplotlib.figure import Figure

from serab_byols.viz.category_styles import COLOURS

NOT_TASKS = ["weights", "seed", "crops"]


def learning_curves(table: pandas.DataFrame) -> Figure:
    """A panel for each task, a line for each weights."""
    tasks = [name for name in table.columns if name not in NOT_TASKS]
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for task, panel in zip(tasks, panels):
        for colour, (weights, rows) in zip(cycle(COLOURS), table.groupby("weights", sort=False)):
            seeds = rows.groupby("crops")[task]
            mean = seeds.mean()
            reach = [mean - seeds.min(), seeds.max() - mean]
            panel.errorbar(mean.index / 1000, mean, reach, marker="o", color=colour, label=weights)
        panel.set(xlabel="crops of 0.95 s, in thousands (logarithmic)", title=task)
        panel.set_xlim(left=-2)
        panel.set_xscale("symlog", linthresh=10)
        panel.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy of a linear probe")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main() -> None:
    """Read, draw, save."""
    table, picture = map(Path, sys.argv[1:])
    learning_curves(pandas.read_csv(table)).savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
