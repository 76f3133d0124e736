"""Distillation: a student whose embeddings are to equal a teacher's on the same crops."""

from __future__ import annotations

import torch
from torch import nn

from serab_byols.encoders import Encoder
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.distributed import full
from serab_byols.pretrain.frames import Teacher
from serab_byols.pretrain.statistics import Scale


class Distillation(nn.Module):
    """Mean squared difference from the teacher's numbers, each relative to its own spread.

    A student of another width is compared through a linear layer, which is learnt with it and
    dropped in the end. Frame by frame features are compared where both have them in one shape.
    """

    def __init__(self, teacher: Encoder, student: Encoder, config: PretrainConfig) -> None:
        super().__init__()
        n_student, n_teacher = student.embedding_size, teacher.embedding_size
        # No submodule: the teacher's weights are no part of what is trained, saved or resumed.
        self._teacher = Teacher(teacher)
        same = n_student == n_teacher
        self.adapter = nn.Identity() if same else nn.Linear(n_student, n_teacher)
        self.compares_frames = bool(config.teacher_frame_weight and same and type(teacher) is type(student))
        self.weight, self.frame_weight = config.teacher_weight, config.teacher_frame_weight
        self.scale, self.frame_scale = Scale(n_teacher), Scale(n_teacher)

    def losses(self, view: torch.Tensor, embedding: torch.Tensor, frames: torch.Tensor | None) -> dict:
        """``teacher`` and, if compared, ``teacher_frames``: 1 is what the teacher's mean would get.

        Args:
            view: what the student took, (B, 1, 64, T).
            embedding: the student's, (B, D).
            frames: its features before pooling, (B, T', D), if it has such.
        """
        theirs, their_frames = self._teacher(view)
        losses = {"teacher": _difference(self.adapter(embedding), theirs, self.scale)}
        if self.compares_frames and their_frames is not None and frames is not None:
            losses["teacher_frames"] = _difference(frames, their_frames, self.frame_scale)
        return losses


def _difference(ours: torch.Tensor, theirs: torch.Tensor, scale: Scale) -> torch.Tensor:
    theirs = full(theirs)
    return ((full(ours) - theirs) / scale(theirs)).square().mean()
