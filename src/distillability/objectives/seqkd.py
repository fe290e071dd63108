"""Sequence-level knowledge distillation (Kim and Rush, 2016): cross-entropy on the teacher's texts. With gold texts it is SFT."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import ObjectiveOutput

__all__ = ["SeqKD"]


@dataclass(frozen=True)
class SeqKD:
    """Σ −log q(target)."""

    name: str = "seqkd"
    needs_teacher_logits: bool = False

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        wide = student_logits if student_logits.dtype == torch.float64 else student_logits.float()
        return ObjectiveOutput(torch.nn.functional.cross_entropy(wide, target_ids, reduction="sum"), target_ids.numel())
