"""Predictors and their training against torch's own layers and a plain loop."""

import math

import numpy as np
import pytest
import torch

from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark import predictor_stack, predictor_training
from serab_byols.hear_benchmark.predictor_grid import GridPoint, grid_points
from serab_byols.hear_benchmark.predictor_stack import (
    PredictorStack,
    logits_of_state,
    prediction_losses,
    probabilities,
    stacks_of,
)
from serab_byols.hear_benchmark.predictor_training import Criterion, LabelledRows, batches, train_predictors

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def rows(n=60, n_features=5, n_labels=3, seed=0, multiclass=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_features, generator=generator)
    scores = x @ torch.randn(n_features, n_labels, generator=torch.Generator().manual_seed(7))
    y = torch.eye(n_labels)[scores.argmax(1)] if multiclass else (scores > 0).float()
    return LabelledRows(x, y)


def plain_network(state):
    """The same predictor of torch's own layers, without dropout."""
    n_hidden = max(int(name.split(".")[0]) for name in state)
    layers = []
    for i in range(n_hidden + 1):
        linear = torch.nn.Linear(*state[f"{i}.weight"].shape)
        linear.weight.data, linear.bias.data = state[f"{i}.weight"].T.clone(), state[f"{i}.bias"].clone()
        layers.append(linear)
        if i < n_hidden:
            layers += [torch.nn.BatchNorm1d(len(state[f"{i}.scale"])), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("multiclass", [True, False])
@pytest.mark.parametrize("n_hidden", [0, 1, 2])
def test_steps_equal_those_of_torch(monkeypatch, n_hidden, multiclass):
    monkeypatch.setattr(predictor_stack, "DROPOUT", 0.0)
    rates = [1e-2, 1e-3, 3e-3]
    points = [GridPoint(hidden_layers=n_hidden, hidden_dim=7, lr=lr) for lr in rates]
    stack = PredictorStack(points, [1, 2, 3], 5, 3, CPU)
    # In float64: the gradient of a bias before a batch norm is but rounding, which Adam makes steps of.
    stack.tensors = {name: tensor.detach().double() for name, tensor in stack.tensors.items()}
    stack.keep([0, 1, 2])
    networks = [plain_network(stack.state(i)).double() for i in range(3)]
    optimizers = [torch.optim.Adam(net.parameters(), lr) for net, lr in zip(networks, rates)]
    loss_of = torch.nn.CrossEntropyLoss() if multiclass else torch.nn.BCEWithLogitsLoss()
    data = rows(multiclass=multiclass)
    data = LabelledRows(data.x.double(), data.y.double())
    kept = [0, 1, 2]
    for step in range(12):
        x, y = data.x[step % 2 :: 2], data.y[step % 2 :: 2]
        stack.step(x, y, multiclass)
        for i in kept:
            optimizers[i].zero_grad()
            loss_of(networks[i](x), y.argmax(1) if multiclass else y).backward()
            optimizers[i].step()
        if step == 5:  # the others go on as if nothing had happened
            stack.keep([0, 2])
            kept = [0, 2]
    for i, logits in zip(kept, stack.logits(data.x)):
        expected = networks[i].eval()(data.x).detach()
        torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        logits_of_state(stack.state(1), data.x), stack.logits(data.x)[1], atol=1e-5, rtol=1e-4
    )
    loss = prediction_losses(stack.logits(data.x), data.y, multiclass)[1]
    torch.testing.assert_close(
        loss, loss_of(networks[2](data.x), data.y.argmax(1) if multiclass else data.y).detach()
    )


def test_initial_weights():
    points = [
        GridPoint(initialization=name, hidden_layers=2, hidden_dim=400)
        for name in ("xavier_uniform_", "xavier_normal_")
    ]
    stack = PredictorStack(points, [5, 6], 300, 50, CPU)
    for layer, gain in ((0, 1.0), (1, math.sqrt(2)), (2, math.sqrt(2))):
        uniform, normal = stack.tensors[f"{layer}.weight"].detach()
        std = gain * math.sqrt(2 / sum(uniform.shape))
        assert normal.std() == pytest.approx(std, rel=0.02)
        assert uniform.std() == pytest.approx(std, rel=0.02)
        assert uniform.abs().max() == pytest.approx(std * math.sqrt(3), rel=0.01)
        bias = stack.tensors[f"{layer}.bias"].detach()
        assert bias.abs().max() == pytest.approx(1 / math.sqrt(len(uniform)), rel=0.05)


def test_dropout_drops_a_tenth_and_keeps_the_mean():
    stack = PredictorStack([GridPoint(hidden_dim=50)] * 2, [1, 2], 4, 2, CPU)
    mask = stack._dropout_mask(torch.empty(2, 400, 50))
    assert set(mask.unique().tolist()) == {0, 1}
    assert mask.mean() == pytest.approx(0.9, abs=0.01)
    assert not torch.equal(mask[0], mask[1])
    # Over many draws the logits are on average those of all units.
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(60):  # until the running statistics are those of the batch
        stack._logits(x, training=True)
    drawn = torch.stack([stack._logits(x, training=True).detach() for _ in range(400)])
    whole = stack.logits(x)
    assert (drawn.mean(0) * whole).sum() / (whole**2).sum() == pytest.approx(1, abs=0.03)
    assert drawn.std(0).mean() > 0.05


def test_a_predictor_does_not_depend_on_what_it_is_stacked_with():
    data, valid = rows(), rows(30, seed=1)
    points = [
        GridPoint(hidden_dim=8, lr=lr, max_epochs=epochs, check_val_every_n_epoch=1)
        for lr, epochs in ((1e-2, 9), (1e-3, 4), (3e-3, 12))
    ]
    criterion = Criterion(None)
    together = train_predictors(points, [1, 2, 3], data, valid, criterion, True)
    alone = [
        train_predictors([p], [seed], data, valid, criterion, True)[0] for p, seed in zip(points, [1, 2, 3])
    ]
    for a, b in zip(together, alone):
        assert a.epoch == b.epoch
        assert a.validation_score == pytest.approx(b.validation_score, rel=1e-4)
    assert len({predictor.validation_score for predictor in together}) == 3


def test_narrow_predictors_of_one_shape_are_stacked():
    points = [
        GridPoint(hidden_layers=layers, hidden_dim=width, batch_size=size)
        for layers, width, size in [(1, 128, 64), (1, 1024, 64), (1, 128, 64), (1, 1024, 64), (1, 128, 32)]
    ]
    assert stacks_of(points) == [[0, 2], [1], [3], [4]]
    linear = [GridPoint(hidden_layers=0, hidden_dim=1024)] * 2
    assert stacks_of(linear) == [[0, 1]]


def scripted(values):
    """A criterion that gives these scores one after the other."""
    remaining = list(values)
    return Criterion(lambda predicted: (remaining.pop(0), {"left": len(remaining)}), higher_is_better=True)


@pytest.mark.parametrize(
    ("scores", "patience", "best", "epoch", "n_used"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.9], 2, 0.3, 3, 4),  # an equal score is no better one
        ([0.1, 0.3, 0.2, 0.4, 0.4, 0.1], 2, 0.4, 7, 6),
        ([0.5, math.nan, 0.9], 9, 0.5, 1, 2),  # ends at a score that is no number
        ([math.nan, 0.9], 9, -math.inf, 1, 1),
    ],
)
def test_early_stopping(scores, patience, best, epoch, n_used):
    criterion = scripted([*scores, *[0.0] * 20])
    point = GridPoint(hidden_dim=4, patience=patience, check_val_every_n_epoch=2, max_epochs=40)
    (predictor,) = train_predictors([point], [1], rows(), rows(9, seed=1), criterion, True)
    assert predictor.validation_score == best
    assert predictor.epoch == epoch
    left = criterion.score(np.zeros(1))[1]["left"]
    assert left == len(scores) + 20 - n_used - 1


def test_training_ends_after_its_epochs():
    epochs = []
    point = GridPoint(hidden_dim=4, max_epochs=7, check_val_every_n_epoch=3)
    train_predictors(
        [point], [1], rows(), rows(9, seed=1), Criterion(None), True, lambda e, n: epochs.append((e, n))
    )
    assert epochs[-1] == (7, 0)


def test_training_learns():
    point = GridPoint(hidden_dim=32, lr=1e-2, max_epochs=60)
    accuracy = lambda predicted: (float((predicted.argmax(1) == valid.y.argmax(1).numpy()).mean()), {})  # noqa: E731
    valid = rows(200, seed=1)
    (predictor,) = train_predictors([point], [1], rows(300), valid, Criterion(accuracy, True), True)
    assert predictor.validation_score > 0.9
    predicted = probabilities(logits_of_state(predictor.state, valid.x), True).numpy()
    assert accuracy(predicted)[0] == predictor.validation_score


def test_a_diverged_predictor_ends():
    bad = LabelledRows(rows().x * float("nan"), rows().y)
    (predictor,) = train_predictors(
        [GridPoint(hidden_dim=4)], [1], bad, rows(9), Criterion(lambda _: (1.0, {}), True), True
    )
    assert predictor.validation_score == -math.inf


def test_batches():
    assert list(batches(2048, 1024)) == [(0, 1024), (1024, 2048)]
    assert list(batches(1026, 1024)) == [(0, 1024), (1024, 1026)]
    assert list(batches(1025, 1024)) == [(0, 1025)]
    assert list(batches(3, 1024)) == [(0, 3)]


def test_chunks_of_validation_do_not_change_it(monkeypatch):
    def best():
        point = GridPoint(hidden_dim=4, max_epochs=3)
        return train_predictors([point], [1], rows(), rows(50, seed=1), Criterion(None), True)[
            0
        ].validation_score

    whole = best()
    monkeypatch.setattr(predictor_training, "ROWS_PER_FORWARD", 7)
    assert best() == pytest.approx(whole, rel=1e-5)


def test_grids():
    default = grid_points("default", {}, 1000)
    assert len(default) == len(set(default)) == 2 * 4 * 2
    assert len(grid_points("fast", {}, 1000)) == 16 * 4
    assert len(grid_points("faster", {}, 1000)) == 2 * 2 * 4 * 2 * 2
    assert {
        point.check_val_every_n_epoch for point in grid_points("default", {"check_val_every_n_epoch": [10]})
    } == {10}


KIT_POINTS = {
    "default": [
        (1, 1024, 1e-4, 20, "xavier_normal_"),
        (2, 1024, 1e-3, 20, "xavier_uniform_"),
        (1, 1024, 1e-3, 20, "xavier_normal_"),
        (1, 1024, 3.2e-4, 20, "xavier_normal_"),
        (2, 1024, 3.2e-4, 20, "xavier_normal_"),
        (2, 1024, 3.2e-4, 20, "xavier_uniform_"),
        (2, 1024, 3.2e-3, 20, "xavier_normal_"),
        (2, 1024, 3.2e-3, 20, "xavier_uniform_"),
    ],
    "faster": [
        (1, 64, 1e-4, 3, "xavier_uniform_"),
        (1, 64, 3.2e-3, 3, "xavier_normal_"),
        (0, 64, 1e-4, 3, "xavier_uniform_"),
        (1, 64, 1e-4, 1, "xavier_uniform_"),
        (0, 128, 3.2e-4, 3, "xavier_normal_"),
        (0, 128, 3.2e-3, 3, "xavier_uniform_"),
        (1, 64, 1e-3, 3, "xavier_uniform_"),
        (1, 128, 1e-3, 3, "xavier_normal_"),
    ],
}
"""What heareval 2021.1.3 draws with its seed."""


@pytest.mark.parametrize("grid", KIT_POINTS)
def test_the_drawn_points_are_those_of_hears_kit(grid):
    drawn = grid_points(grid, {})
    named = [(p.hidden_layers, p.hidden_dim, p.lr, p.patience, p.initialization) for p in drawn]
    assert named == KIT_POINTS[grid]


@pytest.mark.parametrize(
    ("grid", "task_grid", "n", "message"),
    [
        ("slow", {}, 8, "'slow'.*default, fast, faster"),
        ("default", {"dropouts": [0.1]}, 8, "dropouts.*known are batch_size"),
        ("default", {"hidden_dim": [0]}, 8, "hidden_dim 0"),
        ("default", {"lr": [-1.0]}, 8, "lr -1.0"),
        ("default", {"initialization": ["zeros_"]}, 8, "'zeros_'.*xavier_normal_"),
        ("default", {}, 0, "at least one grid point"),
    ],
)
def test_bad_grids(grid, task_grid, n, message):
    with pytest.raises(InvalidInputError, match=message):
        grid_points(grid, task_grid, n)
