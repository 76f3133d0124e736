"""Contrastive learning of the two views of a crop (SimCLR, arXiv 2002.05709, section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.pretrain.byol import Head
from serab_byols.pretrain.distributed import gather_with_gradient, n_processes, rank, to_float32

TEMPERATURE = 0.1
"""SimCLR's best for the batches of 4096 of its table 5."""


class Contrastive(nn.Module):
    """A projector, and the cross-entropy of finding a crop's other view among those of all crops.

    Crops of one recording count as different, too.
    """

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.projector = Head(embedding_size)

    def loss(self, online: list[torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy (NT-Xent) over both views; log(2 B - 1) if all look the same.

        Args:
            online: embeddings (b, D) of both views. Negatives come from all processes.
        """
        projections = [F.normalize(to_float32(self.projector(embedding)), dim=1) for embedding in online]
        candidates = torch.cat([gather_with_gradient(view) for view in projections])
        n_own, n_all = len(projections[0]), len(projections[0]) * n_processes()
        with torch.autocast(candidates.device.type, enabled=False):
            similarity = torch.cat(projections) @ candidates.T / TEMPERATURE
        first = torch.arange(n_own, device=candidates.device) + rank() * n_own
        itself = torch.cat([first, first + n_all])
        similarity = similarity.scatter(1, itself[:, None], -torch.inf)
        return F.cross_entropy(similarity, itself.roll(n_own))
