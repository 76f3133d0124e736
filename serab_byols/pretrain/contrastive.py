"""Contrastive learning of the two views of a crop (SimCLR, arXiv 2002.05709, section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.pretrain.byol import Head
from serab_byols.pretrain.distributed import gather_with_gradient, n_processes, rank, to_float32

TEMPERATURE = 0.1
"""SimCLR's for batches of this order, its table 5."""


class Contrastive(nn.Module):
    """A projector, and the cross-entropy of finding a crop's other view among those of all crops."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.projector = Head(embedding_size)

    def loss(self, online: list[torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy (NT-Xent) over both views; log(2 B - 1) if all look the same.

        Args:
            online: embeddings (b, D) of both views; those of all processes are told apart.
        """
        own = [F.normalize(to_float32(self.projector(embedding)), dim=1) for embedding in online]
        everyone = torch.cat([gather_with_gradient(view) for view in own])
        n_own, n_all = len(own[0]), len(own[0]) * n_processes()
        similarity = torch.cat(own) @ everyone.T / TEMPERATURE
        itself = torch.arange(n_own, device=everyone.device) + rank() * n_own
        both = torch.cat([itself, itself + n_all])
        similarity = similarity.scatter(1, both[:, None], -torch.inf)
        return F.cross_entropy(similarity, both.roll(n_own))
