"""Generalised Jensen–Shannon divergence between teacher and student (GKD, Agarwal et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, check_targets, required, total
from distillability.ops.divergences import jsd

__all__ = ["JSD"]


@dataclass(frozen=True)
class JSD:
    """Sum of the divergence over positions; `teacher_weight` is the teacher's share of the mixture."""

    teacher_weight: float = 0.5
    name: str = "jsd"
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        check_targets(self.name, student_logits, target_ids)
        teacher = required(self.name, teacher_logits)
        return total(self.name, jsd(teacher_logits=teacher, student_logits=student_logits, teacher_weight=self.teacher_weight))
