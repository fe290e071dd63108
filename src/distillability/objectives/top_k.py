"""A divergence on the teacher's k likeliest tokens: what an interface that tells their probabilities gives; and a remedy for tail noise.

The k stand beside one more class for the mass outside, which k log-probabilities tell too, or are renormalised. The plain sum over the k is
neither, and no divergence: for the reverse KL a student lowers it by moving mass out of the k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput, check_targets, required, total
from distillability.ops.support import on_top_k

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK:
    """Sum over positions of `divergence` between what teacher and student give `k` tokens and, with `rest`, all others as one."""

    name: str
    divergence: Callable[..., torch.Tensor]
    k: int = 32
    rest: bool = True
    needs_teacher_logits: bool = True

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        check_targets(self.name, student_logits, target_ids)
        teacher = required(self.name, teacher_logits)
        of_teacher, of_student = on_top_k(teacher_logits=teacher, student_logits=student_logits, k=self.k, rest=self.rest)
        return total(self.name, self.divergence(teacher_logits=of_teacher, student_logits=of_student))
