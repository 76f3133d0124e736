"""Distillation: a student learns to give the embeddings that a teacher gives for the same views."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from serab_byols.encoders import Encoder
from serab_byols.encoders.audiontt import AudioNTT
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.distributed import to_float32
from serab_byols.pretrain.running_norm import RunningScale
from serab_byols.pretrain.training_forward import CACHED_CLIPS, audiontt_stages, embed_with_steps


class Teacher:
    """A frozen copy of an encoder in eval mode, run on a few clips at a time."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        if isinstance(self.encoder, AudioNTT):
            stages = audiontt_stages(self.encoder)
            folded = [(fuse_conv_bn_eval(conv, norm), nn.Identity(), *rest) for conv, norm, *rest in stages]
            self.encoder.features = nn.Sequential(*(module for stage in folded for module in stage)).eval()
        nn.Module.to(self.encoder, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embedding (B, D) and features per time step (B, T', D) or None, of (B, 1, 64, T)."""
        self.encoder.to(x.device)
        embeddings, steps = zip(*(embed_with_steps(self.encoder, part) for part in x.split(CACHED_CLIPS)))
        return torch.cat(embeddings), None if steps[0] is None else torch.cat(steps)


class Distillation(nn.Module):
    """Mean squared difference from the teacher's numbers, each relative to its standard deviation.

    A student of another width is compared through a linear layer, which is trained with it and not
    saved. Features per time step are compared where both encoders are of one kind and width.
    """

    def __init__(self, teacher: Encoder, student: Encoder, config: PretrainConfig) -> None:
        super().__init__()
        n_student, n_teacher = student.embedding_size, teacher.embedding_size
        # No submodule: the teacher's weights are not trained, saved or resumed.
        self._teacher = Teacher(teacher)
        same = n_student == n_teacher
        self.adapter = nn.Identity() if same else nn.Linear(n_student, n_teacher)
        self.compares_steps = bool(
            config.teacher_time_step_weight and same and type(teacher) is type(student)
        )
        self.scale, self.step_scale = RunningScale(n_teacher), RunningScale(n_teacher)

    def losses(
        self, view: torch.Tensor, embedding: torch.Tensor, steps: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """``teacher`` and, if compared, ``teacher_time_steps``; the teacher's mean would get 1.

        Args:
            view: the student's input, (B, 1, 64, T).
            embedding: the student's, (B, D).
            steps: its features per time step before pooling, (B, T', D), if it has such.
        """
        target, target_steps = self._teacher(view)
        losses = {"teacher": _difference(self.adapter(embedding), target, self.scale)}
        if self.compares_steps and target_steps is not None and steps is not None:
            losses["teacher_time_steps"] = _difference(steps, target_steps, self.step_scale)
        return losses


def _difference(ours: torch.Tensor, target: torch.Tensor, scale: RunningScale) -> torch.Tensor:
    target = to_float32(target)
    return ((to_float32(ours) - target) / scale(target)).square().mean()
