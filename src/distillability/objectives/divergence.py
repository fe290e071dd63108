"""Any divergence between the next-token distributions of teacher and student as an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distillability.objectives.base import Recorded, check_targets, required, total

__all__ = ["ByDivergence"]


@dataclass(frozen=True)
class ByDivergence(Recorded):
    """Sum of a divergence over positions.

    Attributes:
        divergence: called with teacher_logits and student_logits [N, V] as keywords, gives [N].
    """

    divergence: Callable[..., torch.Tensor]

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> torch.Tensor:
        check_targets(self.name, student_logits, target_ids)
        teacher = required(self.name, teacher_logits)
        return total(self.name, self.divergence(teacher_logits=teacher, student_logits=student_logits))
