"""The networks and the loss of BYOL (arXiv 2006.07733) as BYOL-S uses them."""

from __future__ import annotations

import copy
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.pretrain.distributed import to_float32

HIDDEN_SIZE = 4096
PROJECTION_SIZE = 256


class Head(nn.Module):
    """Projector or predictor: linear, batch normalisation, ReLU, linear; (B, n_in) to (B, n_out)."""

    def __init__(self, n_in: int, n_out: int = PROJECTION_SIZE, n_hidden: int = HIDDEN_SIZE) -> None:
        super().__init__()
        self.lin1 = nn.Linear(n_in, n_hidden)
        self.bn = nn.BatchNorm1d(n_hidden)
        self.lin2 = nn.Linear(n_hidden, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin2(F.relu(self.bn(self.lin1(x))))


class Byol(nn.Module):
    """Projector, predictor, and the target network: a moving average of encoder and projector.

    The target stays in training mode and gets no gradient. Parameters alone are averaged; buffers, such
    as the running statistics of its batch normalisations, are its own.
    """

    def __init__(self, encoder: nn.Module, embedding_size: int) -> None:
        super().__init__()
        self.projector = Head(embedding_size)
        self.predictor = Head(PROJECTION_SIZE)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def loss(self, online: list[torch.Tensor], views: list[torch.Tensor]) -> torch.Tensor:
        """Symmetric loss, 0 to 8, averaged over the batch.

        Args:
            online: the online encoder's embeddings (B, D) of both views.
            views: the encoders' inputs, (B, 1, 64, T) each.
        """
        with torch.no_grad():
            targets = [self.target_projector(self.target_encoder(view)) for view in views]
        predictions = [self.predictor(self.projector(embedding)) for embedding in online]
        return (distance(predictions[0], targets[1]) + distance(predictions[1], targets[0])).mean()

    @torch.no_grad()
    def update_target(self, encoder: nn.Module, decay: float) -> None:
        """Target <- decay * target + (1 - decay) * online, for every parameter."""
        target = chain(self.target_encoder.parameters(), self.target_projector.parameters())
        online = chain(encoder.parameters(), self.projector.parameters())
        for theirs, ours in zip(target, online, strict=True):
            theirs.lerp_(ours, 1 - decay)


def distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance of the directions (B, n): 2 - 2 cos, as (B,)."""
    return 2 - 2 * F.cosine_similarity(to_float32(prediction), to_float32(target), dim=-1)


@torch.no_grad()
def relative_spread(embeddings: torch.Tensor) -> torch.Tensor:
    """RMS distance of embeddings (B, D) from their mean, relative to their RMS length; 0 if all are equal."""
    embeddings = to_float32(embeddings)
    spread = (embeddings - embeddings.mean(0)).square().sum(1).mean()
    return (spread / embeddings.square().sum(1).mean().clamp_min(1e-12)).sqrt()
