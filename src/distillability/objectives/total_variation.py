"""½ Σ |p − q|: no token costs more than its mass, so that a far tail, or a token the student all but excludes, cannot dominate.

One of the divergences of f-distill, Wen et al., 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, check_targets, required, total
from distillability.ops.divergences import total_variation

__all__ = ["TotalVariation"]


@dataclass(frozen=True)
class TotalVariation:
    """Sum of the distance over positions, without a unit: 1 a position at most."""

    name: str = "total_variation"
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        check_targets(self.name, student_logits, target_ids)
        return total(self.name, total_variation(teacher_logits=required(self.name, teacher_logits), student_logits=student_logits))
