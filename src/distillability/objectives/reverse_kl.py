"""KL(q‖p), the student kept where the teacher would be (MiniLLM, Gu et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, check_targets, required, total
from distillability.ops.divergences import reverse_kl

__all__ = ["ReverseKL"]


@dataclass(frozen=True)
class ReverseKL:
    """Sum of the divergence over positions."""

    name: str = "reverse_kl"
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        check_targets(self.name, student_logits, target_ids)
        return total(self.name, reverse_kl(teacher_logits=required(self.name, teacher_logits), student_logits=student_logits))
