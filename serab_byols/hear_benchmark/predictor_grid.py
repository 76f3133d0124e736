"""The hyperparameters that HEAR tries for its predictors: grids ``default``, ``fast`` and ``faster``."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from serab_byols.errors import InvalidInputError

DROPOUT = 0.1
SEED = 42
N_GRID_POINTS = 8
"""As many points of a grid are tried, drawn without replacement."""


@dataclass(frozen=True)
class GridPoint:
    """Hyperparameters of a predictor and its training.

    Attributes:
        hidden_layers, hidden_dim: number and width.
        lr: of Adam.
        initialization: ``"xavier_uniform_"`` or ``"xavier_normal_"``, of :mod:`torch.nn.init`.
        batch_size: clips or timestamps of a step.
        max_epochs: of training.
        check_val_every_n_epoch: epochs between validations.
        patience: validations without a better score after which training ends.
    """

    hidden_layers: int = 1
    hidden_dim: int = 1024
    lr: float = 1e-3
    initialization: str = "xavier_uniform_"
    batch_size: int = 1024
    max_epochs: int = 500
    check_val_every_n_epoch: int = 3
    patience: int = 20

    def as_json(self) -> dict[str, Any]:
        """By name, in types that JSON has."""
        return asdict(self)


Grid = Mapping[str, Sequence[Any]]

DEFAULT: Grid = {
    "batch_size": [1024],
    "check_val_every_n_epoch": [3],
    "hidden_dim": [1024],
    "hidden_layers": [1, 2],
    "initialization": ["xavier_uniform_", "xavier_normal_"],
    "lr": [3.2e-3, 1e-3, 3.2e-4, 1e-4],
    "max_epochs": [500],
    "patience": [20],
}
GRIDS: Mapping[str, Grid] = {
    "default": DEFAULT,
    "fast": {**DEFAULT, "max_epochs": [10, 50], "check_val_every_n_epoch": [3, 10]},
    "faster": {
        **DEFAULT,
        "hidden_layers": [0, 1],
        "hidden_dim": [64, 128],
        "patience": [1, 3],
        "max_epochs": [10],
        "check_val_every_n_epoch": [1],
    },
}
GRIDS_OF_TASKS: Mapping[str, Grid] = {"dcase2016_task2": {"check_val_every_n_epoch": [10]}}
"""What HEAR sets for one of its tasks; other tasks say it in their metadata."""


def grid_points(
    grid: str, task_grid: Grid, n_points: int = N_GRID_POINTS, seed: int = SEED
) -> list[GridPoint]:
    """The points to try.

    Args:
        grid: name of a grid.
        task_grid: what a task sets otherwise.
        n_points: at most so many, drawn without replacement.
        seed: of the draw; 42 draws the points that HEAR's kit draws.

    Raises:
        InvalidInputError: unknown grid, unknown names or values of hyperparameters.
    """
    if grid not in GRIDS:
        raise InvalidInputError(f"unknown grid {grid!r}; the grids are {', '.join(GRIDS)}")
    if n_points < 1:
        raise InvalidInputError(f"at least one grid point is needed, got {n_points}")
    values = {**GRIDS[grid], **task_grid}
    unknown = sorted(set(values) - set(DEFAULT))
    if unknown:
        raise InvalidInputError(
            f"the task's grid sets {', '.join(unknown)}; known are {', '.join(sorted(DEFAULT))}"
        )
    names = sorted(values)  # the order decides which points are drawn
    points = [
        GridPoint(**dict(zip(names, chosen)))
        for chosen in itertools.product(*(values[name] for name in names))
    ]
    random.Random(seed).shuffle(points)
    return [_checked(point) for point in points[:n_points]]


def _checked(point: GridPoint) -> GridPoint:
    counts = (
        "hidden_layers",
        "hidden_dim",
        "batch_size",
        "max_epochs",
        "check_val_every_n_epoch",
        "patience",
    )
    for name in counts:
        value, least = getattr(point, name), 0 if name == "hidden_layers" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInputError(f"the task's grid has {name} {value!r}; expected an integer from {least}")
    if not (isinstance(point.lr, float) and point.lr > 0):
        raise InvalidInputError(f"the task's grid has lr {point.lr!r}; expected a positive number")
    if point.initialization not in DEFAULT["initialization"]:
        known = ", ".join(DEFAULT["initialization"])
        raise InvalidInputError(
            f"the task's grid has initialization {point.initialization!r}; expected one of {known}"
        )
    return replace(point)
