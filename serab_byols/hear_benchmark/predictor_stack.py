"""Several small predictors of one shape, computed at once: HEAR's shallow networks on top of embeddings.

Each is a number of hidden layers (linear, batch norm, dropout, ReLU) and a linear layer to the labels. They
see the same data and differ in their weights and learning rates, so a layer of all of them is one batched
matrix product. A predictor's random numbers are its own: it turns out the same, whatever it is stacked with,
up to the rounding of sums.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from serab_byols.hear_benchmark.predictor_grid import DROPOUT, GridPoint

EPS, MOMENTUM = 1e-5, 0.1
"""Of batch norm."""

STACKED_WIDTH = 256
"""Of hidden layers, up to which predictors are worth stacking.

On a CPU core, four predictors on embeddings of 512 and 2048 numbers take, stacked, 10 to 30 % less time than
one after the other with hidden layers of 64 to 256; with 1024 they take 5 % less to 7 % more, and four times
the memory.
"""

TRAINED = ("weight", "bias", "scale", "shift")
"""Of a layer; the last layer has only the first two. ``mean`` and ``var`` are counted along."""


class PredictorStack:
    """G predictors.

    Args:
        points: their hyperparameters, alike in ``hidden_layers`` and ``hidden_dim``.
        seeds: of their initial weights and their dropout.
        n_features, n_labels: of their input and output.
        device: of their weights.
    """

    def __init__(
        self,
        points: Sequence[GridPoint],
        seeds: Sequence[int],
        n_features: int,
        n_labels: int,
        device: torch.device,
    ) -> None:
        self.n_hidden = points[0].hidden_layers
        sizes = [n_features, *[points[0].hidden_dim] * self.n_hidden, n_labels]
        members = [_initial_weights(point, seed, sizes) for point, seed in zip(points, seeds)]
        self._dropout = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.tensors = {
            name: torch.stack([member[name] for member in members]).to(device) for name in members[0]
        }
        self._slices: list[list[_Slice]] = []
        self._optimizer = self._adam([point.lr for point in points], {})

    def __len__(self) -> int:
        return len(self._dropout)

    def step(self, x: Tensor, y: Tensor, multiclass: bool) -> None:
        """One step of training on embeddings (n, D) and labels (n, K) of 0 and 1."""
        logits = self._logits(x, training=True)
        loss = prediction_losses(logits, y, multiclass).sum()
        names = self._trained_names()
        gradients = torch.autograd.grad(loss, [self.tensors[name] for name in names])
        for slices in self._slices:
            for piece, gradient in zip(slices, gradients):
                piece.view.grad = gradient[piece.member].contiguous()
        self._optimizer.step()

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """(n, D) to (G, n, K), as trained so far."""
        return self._logits(x, training=False)

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of a predictor's weights and statistics."""
        return {name: tensor[member].detach().clone() for name, tensor in self.tensors.items()}

    def keep(self, members: Sequence[int]) -> None:
        """Go on with some of the predictors."""
        rates = [self._optimizer.param_groups[member]["lr"] for member in members]
        states = {
            (i, j): self._optimizer.state[piece.view]
            for i, member in enumerate(members)
            for j, piece in enumerate(self._slices[member])
        }
        self._dropout = [self._dropout[member] for member in members]
        self.tensors = {name: tensor.detach()[list(members)] for name, tensor in self.tensors.items()}
        self._optimizer = self._adam(rates, states)

    def _trained_names(self) -> list[str]:
        return [name for name in self.tensors if name.split(".")[1] in TRAINED]

    def _adam(self, rates: Sequence[float], states: Mapping[tuple[int, int], dict]) -> torch.optim.Adam:
        """Adam with a learning rate for each predictor, on views into the stacked tensors."""
        names = self._trained_names()
        self._slices = [
            [_Slice(i, self.tensors[name][i].detach().requires_grad_()) for name in names]
            for i in range(len(rates))
        ]
        for name in names:
            self.tensors[name].requires_grad_()
        groups = [
            {"params": [piece.view for piece in slices], "lr": lr} for slices, lr in zip(self._slices, rates)
        ]
        fused = self._slices[0][0].view.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(groups, fused=fused)
        for (i, j), state in states.items():
            optimizer.state[self._slices[i][j].view] = state
        return optimizer

    def _logits(self, x: Tensor, training: bool) -> Tensor:
        h = x.expand(len(self), *x.shape)  # (G, n, D)
        dropped = 0.0
        for i in range(self.n_hidden):
            h = self._batch_norm(i, self._linear(i, h, dropped), training)
            h = F.relu(h * self._dropout_mask(h) if training else h)
            dropped = DROPOUT if training else 0.0
        return self._linear(self.n_hidden, h, dropped)

    def _linear(self, layer: int, h: Tensor, dropped: float) -> Tensor:
        """Of an input from which a share was dropped; the rest is scaled up here, at no cost."""
        bias = self.tensors[f"{layer}.bias"].unsqueeze(1)
        return torch.baddbmm(bias, h, self.tensors[f"{layer}.weight"], alpha=1 / (1 - dropped))

    def _batch_norm(self, layer: int, h: Tensor, training: bool) -> Tensor:
        scale, shift, mean, var = (
            self.tensors[f"{layer}.{name}"] for name in ("scale", "shift", "mean", "var")
        )
        normalized = [
            F.batch_norm(of_member, mean[i], var[i], scale[i], shift[i], training, MOMENTUM, EPS)
            for i, of_member in enumerate(h.unbind())
        ]
        return torch.stack(normalized)

    def _dropout_mask(self, h: Tensor) -> Tensor:
        mask = torch.empty_like(h)
        for of_member, generator in zip(mask, self._dropout):
            of_member.bernoulli_(1 - DROPOUT, generator=generator)
        return mask


def stacks_of(points: Sequence[GridPoint]) -> list[list[int]]:
    """Which points to train together, by their positions: those of one shape, unless they are wide."""
    stacks: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, point in enumerate(points):
        is_wide = point.hidden_layers > 0 and point.hidden_dim > STACKED_WIDTH
        shape = (point.hidden_layers, point.hidden_dim, point.batch_size)
        stacks[(*shape, i) if is_wide else shape].append(i)
    return list(stacks.values())


@dataclass(frozen=True)
class _Slice:
    """A member's part of a stacked tensor, as a leaf that an optimiser takes."""

    member: int
    view: Tensor


def prediction_losses(logits: Tensor, y: Tensor, multiclass: bool) -> Tensor:
    """Cross entropy of softmax or of sigmoids, averaged over a predictor's outputs; (G, n, K) to (G,)."""
    if multiclass:
        target = y.argmax(dim=1).expand(len(logits), -1)  # (G, n)
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(dim=1)
    targets = y.expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(1, 2))


def probabilities(logits: Tensor, multiclass: bool) -> Tensor:
    """Softmax or sigmoids, of the last dimension."""
    return logits.softmax(dim=-1) if multiclass else logits.sigmoid()


@torch.no_grad()
def logits_of_state(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(n, D) to (n, K) by one predictor, from :meth:`PredictorStack.state`."""
    n_hidden = max(int(name.split(".")[0]) for name in state)
    for i in range(n_hidden):
        x = x @ state[f"{i}.weight"] + state[f"{i}.bias"]
        factor = state[f"{i}.scale"] * torch.rsqrt(state[f"{i}.var"] + EPS)
        x = F.relu((x - state[f"{i}.mean"]) * factor + state[f"{i}.shift"])
    return x @ state[f"{n_hidden}.weight"] + state[f"{n_hidden}.bias"]


def _initial_weights(point: GridPoint, seed: int, sizes: Sequence[int]) -> dict[str, Tensor]:
    """Weights (in, out) by the point's initialisation, biases as :class:`torch.nn.Linear` has them."""
    generator = torch.Generator().manual_seed(seed)
    initialize = getattr(torch.nn.init, point.initialization)
    tensors = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        gain = torch.nn.init.calculate_gain("linear" if i == 0 else "relu")
        tensors[f"{i}.weight"] = initialize(torch.empty(n_in, n_out), gain=gain, generator=generator)
        bound = 1 / math.sqrt(n_in)
        tensors[f"{i}.bias"] = torch.empty(n_out).uniform_(-bound, bound, generator=generator)
        if i < len(sizes) - 2:
            tensors[f"{i}.scale"], tensors[f"{i}.shift"] = torch.ones(n_out), torch.zeros(n_out)
            tensors[f"{i}.mean"], tensors[f"{i}.var"] = torch.zeros(n_out), torch.ones(n_out)
    return tensors
