"""KL(q‖p), the student kept where the teacher would be (MiniLLM, Gu et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, required
from distillability.ops.divergences import reverse_kl

__all__ = ["ReverseKL"]


@dataclass(frozen=True)
class ReverseKL:
    """Sum of the divergence over positions."""

    name: str = "reverse_kl"
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        divergence = reverse_kl(teacher_logits=required(self.name, teacher_logits), student_logits=student_logits)
        return ObjectiveOutput(divergence.sum(), target_ids.numel())
