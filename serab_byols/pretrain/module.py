"""The training itself, as Lightning runs it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from serab_byols.encoders import Encoder, create_encoder
from serab_byols.errors import InvalidInputError
from serab_byols.pretrain import distributed
from serab_byols.pretrain.byol import Byol, relative_spread
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.corpus import CropBatches, CropReader
from serab_byols.pretrain.distributed import Share, averaged, synchronized
from serab_byols.pretrain.frames import embedding_and_frames
from serab_byols.pretrain.hybrid import Features, Hybrid
from serab_byols.pretrain.teacher import Distillation
from serab_byols.pretrain.views import Draws, Views

EPOCHS_OF_STATISTICS = 10
"""After so many epochs the log-mel's statistics stay as they are."""


class PretrainModule(LightningModule):
    """Encoder, the tasks it learns from, and one step of it.

    Args:
        config: every choice.
        reader: the corpus.
        table: features to predict, if ``hybrid_weight`` is not 0.
        teacher: encoder to follow, if its weights are not 0.
        start: encoder of the same kind and size whose weights to begin with, instead of random ones.
    """

    def __init__(
        self,
        config: PretrainConfig,
        reader: CropReader,
        table: Features | None = None,
        teacher: Encoder | None = None,
        start: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.reader = reader
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._build(config, table, teacher, start)
        self.metrics: dict[str, torch.Tensor] = {}
        self.first_step = 0

    def _build(
        self,
        config: PretrainConfig,
        table: Features | None,
        teacher: Encoder | None,
        start: Encoder | None,
    ) -> None:
        self.encoder = create_encoder(config.encoder, **config.encoder_config).train()
        if start is not None:
            self.encoder.load_state_dict(start.state_dict())
        if config.dropout is not None:
            for module in self.encoder.modules():
                if isinstance(module, nn.Dropout):
                    module.p = config.dropout
        self.views = Views(config, EPOCHS_OF_STATISTICS * self.reader.crops.n_an_epoch)
        size = self.encoder.embedding_size
        self.byol = Byol(self.encoder, size) if config.byol_weight else None
        self.hybrid = Hybrid(_required(table, "hybrid_weight"), size) if config.hybrid_weight else None
        follows = config.teacher_weight or config.teacher_frame_weight
        self.distillation = (
            Distillation(_required(teacher, "teacher_weight"), self.encoder, config) if follows else None
        )
        synchronized(self)
        # Convolutions are a third faster this way, on CPUs and GPUs, and their results the same.
        self.to(memory_format=torch.channels_last)

    def share(self) -> Share:
        """This process's rows of a batch.

        Raises:
            InvalidInputError: the batch cannot be divided evenly.
        """
        n = distributed.n_processes()
        if self.config.batch_size % n:
            raise InvalidInputError(f"batch_size={self.config.batch_size} cannot be divided by {n} processes")
        return Share(distributed.rank(), n, self.config.batch_size // n)

    def train_dataloader(self) -> DataLoader:
        batches = CropBatches(self.reader, self.share(), self.first_step, self.config.steps)
        return DataLoader(batches, batch_size=None)

    def configure_optimizers(self) -> Any:
        c = self.config
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=c.lr, betas=(0.9, c.beta2), weight_decay=c.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, c.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of a batch: waveforms (b, n_samples) and clip numbers (b,)."""
        waveforms, clips = batch
        step = self.global_step
        share = self.share()
        draws = Draws(self.config.seed, step, share, waveforms.device)
        torch.manual_seed(self.config.seed + share.n_processes * step + share.rank)  # for dropout
        log_mel = self.views.log_mel(waveforms, draws)
        losses, embedding = self.losses(self.views.of(log_mel, draws), clips, log_mel)
        loss = torch.stack(list(losses.values())).sum()
        if self.byol is not None:
            # Between forward and backward pass, as BYOL-S did: the target is one step behind.
            self.byol.follow(self.encoder, self.config.ema_decay_at(step))
        self._note(loss, losses, embedding)
        return loss

    def losses(
        self, views: list[torch.Tensor], clips: torch.Tensor, log_mel: torch.Tensor | None = None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Weighted losses by name, and the embeddings (b, D) of the first view."""
        c = self.config
        seen = [embedding_and_frames(self.encoder, view) for view in views]
        online = [embedding for embedding, _ in seen]
        losses = {}
        if self.byol is not None:
            losses["byol"] = c.byol_weight * self.byol.loss(online, views)
        if self.hybrid is not None:
            losses["hybrid"] = c.hybrid_weight * self.hybrid.loss(online, clips, log_mel)
        if self.distillation is not None:
            parts = [self.distillation.losses(view, *ours) for view, ours in zip(views, seen)]
            for name, weight in (("teacher", c.teacher_weight), ("teacher_frames", c.teacher_frame_weight)):
                if name in parts[0]:
                    losses[name] = weight * torch.stack([part[name] for part in parts]).mean()
        return losses, online[0]

    def _note(self, loss: torch.Tensor, losses: dict[str, torch.Tensor], embedding: torch.Tensor) -> None:
        """Numbers of this step for the log, the same in every process."""
        spread = relative_spread(embedding.detach())
        values = torch.stack([loss, *losses.values(), spread]).detach().float()
        names = ("loss", *losses, "spread")
        self.metrics = dict(zip(names, averaged(values)))


def _required(given: Any, weight: str) -> Any:
    if given is None:
        raise InvalidInputError(f"{weight} is not 0, but there is nothing to learn it from")
    return given
