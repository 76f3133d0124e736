"""An encoder for X-ARES (arXiv 2505.16369): frames of embeddings, with the attributes that it looks for."""

from __future__ import annotations

import math
import os

import torch
from torch import nn

from serab_byols.checkpoint import load_model
from serab_byols.corpus.embedding import check_corpus_normalization
from serab_byols.errors import InvalidInputError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS, get_timestamp_embeddings
from serab_byols.model import ByolsModel


class XaresEncoder(nn.Module):
    """Waveforms (B, n) to embeddings (B, T, D); T is the length divided by the hop, rounded up.

    Args:
        model: a model, or what :func:`serab_byols.load_model` takes; by default the bundled weights.
        frame_duration, hop_size: of the frames, in milliseconds.
        dense: approximate frames at a fraction of the cost, see :func:`serab_byols.get_timestamp_embeddings`.

    Attributes:
        sampling_rate: samples per second.
        output_dim: D.
        hop_size_in_ms: distance of the frames.

    Raises:
        InvalidInputError: a normalisation that is shared between clips.

    Example:
        >>> encoder = XaresEncoder()
        >>> encoder(torch.zeros(2, 16000)).shape  # a second
        torch.Size([2, 20, 512])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ByolsModel = "",
        *,
        frame_duration: float = FRAME_DURATION_MS,
        hop_size: float = HOP_SIZE_MS,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, ByolsModel) else load_model(model)
        check_corpus_normalization(self.model)
        self.sampling_rate = self.model.sample_rate
        self.output_dim = self.model.timestamp_embedding_size
        self.hop_size_in_ms = hop_size
        self.frame_duration = frame_duration
        self.dense = dense

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, T, D) of waveforms (B, n) or (n,); detached, float32."""
        waveforms = audio[None] if audio.ndim == 1 else audio
        embeddings, _ = get_timestamp_embeddings(
            waveforms, self.model, self.frame_duration, self.hop_size_in_ms, dense=self.dense
        )
        if not isinstance(embeddings, torch.Tensor):
            raise InvalidInputError("audio must be a tensor (batch, samples)")
        length_ms = 1000 * waveforms.shape[1] / self.sampling_rate
        return embeddings[:, : math.ceil(length_ms / self.hop_size_in_ms)]
