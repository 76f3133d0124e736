"""What is trained: an encoder, and the tasks it learns from."""

from __future__ import annotations

import torch
from torch import nn

from serab_byols.encoders import Encoder, create_encoder
from serab_byols.errors import InvalidInputError
from serab_byols.pretrain.byol import Byol
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.contrastive import Contrastive
from serab_byols.pretrain.distillation import Distillation
from serab_byols.pretrain.hybrid import Features, Hybrid
from serab_byols.pretrain.training_forward import embed_with_steps
from serab_byols.pretrain.views import Draws, Views

EPOCHS_OF_STATISTICS = 10
"""After so many epochs the log-mel's statistics stay as they are."""


class PretrainNetwork(nn.Module):
    """Encoder, views, and the heads and targets of the tasks; a batch of crops to its losses.

    It begins with the weights of ``init``, an encoder of the same kind and size, or with random ones.

    Raises:
        InvalidInputError: a task has a weight, but no features or no teacher.
    """

    def __init__(
        self,
        config: PretrainConfig,
        crops_per_epoch: int,
        features: Features | None = None,
        teacher: Encoder | None = None,
        init: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        sources = {"hybrid_weight": features, "teacher_weight": teacher, "teacher_time_step_weight": teacher}
        for weight, source in sources.items():
            if getattr(config, weight) and source is None:
                raise InvalidInputError(f"{weight} is not 0, but there is nothing to learn it from")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = create_encoder(config.encoder, **config.encoder_config).train()
            if init is not None:
                self.encoder.load_state_dict(init.state_dict())
            if config.dropout is not None:
                for module in self.encoder.modules():
                    if isinstance(module, nn.Dropout):
                        module.p = config.dropout
            self.views = Views(config, EPOCHS_OF_STATISTICS * crops_per_epoch)
            size = self.encoder.embedding_size
            self.byol = Byol(self.encoder, size) if config.byol_weight else None
            self.contrastive = Contrastive(size) if config.contrastive_weight else None
            self.hybrid = Hybrid(features, size) if features is not None and config.hybrid_weight else None
            self.distillation = (
                Distillation(teacher, self.encoder, config)
                if teacher is not None and (config.teacher_weight or config.teacher_time_step_weight)
                else None
            )
        # Convolutions are a third faster this way, on CPUs and GPUs, with the same results.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, waveforms: torch.Tensor, clips: torch.Tensor, draws: Draws
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Weighted losses by name, and the embeddings (b, D) of the first view.

        Of waveforms (b, n_samples), float32, and the numbers (b,) of the clips that they are from.
        """
        views, log_mel = self.views(waveforms, draws)
        return self.losses(views, clips, log_mel)

    def losses(
        self, views: list[torch.Tensor], clips: torch.Tensor, log_mel: torch.Tensor | None = None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """As :meth:`forward`, of views (b, 1, 64, T) and normalised log-mels (b, 64, T)."""
        c = self.config
        online = [embed_with_steps(self.encoder, view) for view in views]
        embeddings = [embedding for embedding, _ in online]
        losses = {}
        if self.byol is not None:
            losses["byol"] = c.byol_weight * self.byol.loss(embeddings, views)
        if self.contrastive is not None:
            losses["contrastive"] = c.contrastive_weight * self.contrastive.loss(embeddings)
        if self.hybrid is not None:
            losses["hybrid"] = c.hybrid_weight * self.hybrid.loss(embeddings, clips, log_mel)
        if self.distillation is not None:
            of_views = [self.distillation.losses(view, *ours) for view, ours in zip(views, online)]
            weights = {"teacher": c.teacher_weight, "teacher_time_steps": c.teacher_time_step_weight}
            for name in of_views[0]:
                losses[name] = weights[name] * torch.stack([of_view[name] for of_view in of_views]).mean()
        return losses, embeddings[0]
