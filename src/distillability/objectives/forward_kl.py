"""KL(p‖q), the teacher's distribution matched where the teacher puts its mass (Hinton et al., 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, check_targets, required, total
from distillability.ops.divergences import forward_kl

__all__ = ["ForwardKL"]


@dataclass(frozen=True)
class ForwardKL:
    """Sum of the divergence over positions."""

    name: str = "forward_kl"
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        check_targets(self.name, student_logits, target_ids)
        return total(self.name, forward_kl(teacher_logits=required(self.name, teacher_logits), student_logits=student_logits))
