"""KL(q‖(1−λ)p + λq): reverse KL against a mixture with some of the student in it, so that no token costs more than −log λ.

DistiLLM, Ko et al., 2024; their adaptive off-policy schedule is not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, check_targets, required, total
from distillability.ops.divergences import skewed_reverse_kl

__all__ = ["SkewedReverseKL"]


@dataclass(frozen=True)
class SkewedReverseKL:
    """Sum of the divergence over positions; `skew` is λ, the share of the student in the mixture."""

    skew: float = 0.1
    name: str = "skewed_reverse_kl"
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        check_targets(self.name, student_logits, target_ids)
        teacher = required(self.name, teacher_logits)
        return total(self.name, skewed_reverse_kl(teacher_logits=teacher, student_logits=student_logits, skew=self.skew))
