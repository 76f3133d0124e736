"""Training of predictors: early stopping on the validation score, as HEAR's kit does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serab_byols.hear_benchmark.predictor_grid import GridPoint
from serab_byols.hear_benchmark.predictor_stack import PredictorStack, prediction_losses, probabilities

ROWS_PER_FORWARD = 8192
"""Of validation; bounds memory."""


@dataclass(frozen=True)
class LabelledRows:
    """Embeddings and what is true of them.

    Attributes:
        x: (N, D) float32.
        y: (N, K) of 0 and 1, float32.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Criterion:
    """What predictors are selected by.

    Attributes:
        score: of a predictor's probabilities (N, K) of the validation rows: its value, and facts to keep
            with it (the post-processing that reached it). None: the loss.
        higher_is_better: of the score.
    """

    score: Callable[[np.ndarray], tuple[float, dict[str, Any]]] | None
    higher_is_better: bool = False


@dataclass
class TrainedPredictor:
    """A predictor at its best validation.

    Attributes:
        point: its hyperparameters.
        validation_score: by which it was selected; infinitely bad if no validation gave a number.
        epoch: of the best validation, counted from 0.
        facts: kept with the score.
        state: its weights, on the CPU.
    """

    point: GridPoint
    validation_score: float
    epoch: int = -1
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


def train_predictors(
    points: Sequence[GridPoint],
    seeds: Sequence[int],
    train: LabelledRows,
    valid: LabelledRows,
    criterion: Criterion,
    multiclass: bool,
    on_epoch: Callable[[int, int], None] | None = None,
) -> list[TrainedPredictor]:
    """Train predictors at once, each until its own end.

    Rows are not shuffled: every epoch has the same batches. Every ``check_val_every_n_epoch`` epochs the
    validation score is computed; training ends after ``patience`` times without a better one, at a score
    that is not finite, or after ``max_epochs``. The best one's weights are kept.

    Args:
        points: hyperparameters, alike in ``hidden_layers``, ``hidden_dim`` and ``batch_size``.
        seeds: one for each.
        train, valid: rows to train and to validate with.
        criterion: what is better.
        multiclass: one label a row, else any number.
        on_epoch: called with the epoch and the number of predictors still in training.
    """
    stack = PredictorStack(points, seeds, train.x.shape[1], train.y.shape[1], train.x.device)
    progress = [_Progress(point, criterion) for point in points]
    active = list(range(len(points)))
    epoch = 0
    while active:
        for first, last in batches(len(train.x), points[0].batch_size):
            stack.step(train.x[first:last], train.y[first:last], multiclass)
        due = [i for i, member in enumerate(active) if progress[member].is_due(epoch)]
        if due:
            for i, (score, facts) in zip(due, _validation(stack, due, valid, criterion, multiclass)):
                progress[active[i]].validated(epoch, score, facts, stack, i)
        epoch += 1
        going_on = [i for i, member in enumerate(active) if not progress[member].is_over(epoch)]
        if 0 < len(going_on) < len(active):
            stack.keep(going_on)
        active = [active[i] for i in going_on]
        if on_epoch:
            on_epoch(epoch, len(active))
    return [of_member.best for of_member in progress]


def batches(n_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last row of each batch; a single row at the end joins the batch before it.

    HEAR's kit stops there with an error, since a batch norm needs two rows.
    """
    firsts = list(range(0, n_rows, size))
    if len(firsts) > 1 and n_rows - firsts[-1] == 1:
        firsts.pop()
    yield from zip(firsts, [*firsts[1:], n_rows])


class _Progress:
    """How far a predictor is, and its best validation so far."""

    def __init__(self, point: GridPoint, criterion: Criterion) -> None:
        self._sign = 1.0 if criterion.score and criterion.higher_is_better else -1.0
        self._n_without_better = 0
        self._is_stopped = False
        self.best = TrainedPredictor(point, -self._sign * math.inf)

    def is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.best.point.check_val_every_n_epoch == 0

    def is_over(self, n_epochs: int) -> bool:
        return self._is_stopped or n_epochs >= self.best.point.max_epochs

    def validated(
        self, epoch: int, score: float, facts: dict[str, Any], stack: PredictorStack, member: int
    ) -> None:
        is_first = self.best.epoch < 0
        is_better = self._sign * score > self._sign * self.best.validation_score  # no NaN is
        if is_better or is_first:
            state = {name: tensor.cpu() for name, tensor in stack.state(member).items()}
            value = score if is_better else self.best.validation_score
            self.best = TrainedPredictor(self.best.point, value, epoch, facts, state)
        self._n_without_better = 0 if is_better else self._n_without_better + 1
        self._is_stopped = self._n_without_better >= self.best.point.patience or not math.isfinite(score)


def _validation(
    stack: PredictorStack, members: Sequence[int], valid: LabelledRows, criterion: Criterion, multiclass: bool
) -> Iterator[tuple[float, dict[str, Any]]]:
    chunks = [stack.logits(x)[list(members)] for x in valid.x.split(ROWS_PER_FORWARD)]
    for logits in torch.cat(chunks, dim=1):
        yield validate(logits, valid.y, criterion, multiclass)


def validate(
    logits: Tensor, y: Tensor, criterion: Criterion, multiclass: bool
) -> tuple[float, dict[str, Any]]:
    """The value that a predictor is selected by, from its logits (N, K)."""
    if criterion.score is None:
        return float(prediction_losses(logits[None], y, multiclass)), {}
    predicted = probabilities(logits, multiclass).cpu().numpy()
    if not np.isfinite(predicted).all():  # it diverged
        return math.nan, {}
    return criterion.score(predicted)
