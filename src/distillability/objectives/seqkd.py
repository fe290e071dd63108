"""Sequence-level knowledge distillation (Kim and Rush, 2016): cross-entropy on the teacher's texts. With gold texts it is SFT."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import Recorded, check_targets, total
from distillability.ops.logprobs import token_logprobs

__all__ = ["SeqKD"]


@dataclass(frozen=True)
class SeqKD(Recorded):
    """Σ −log q(target)."""

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> torch.Tensor:
        check_targets(self.name, student_logits, target_ids)
        return total(self.name, -token_logprobs(student_logits, target_ids))
