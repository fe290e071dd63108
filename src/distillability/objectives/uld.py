"""Universal logit distillation (ULD, Boizard et al., 2024): the teacher's logits for a student of another tokenizer.

Cross-entropy on the teacher's text, and at every position how far the two distributions lie apart when each is sorted: two vocabularies
do not agree on which token a probability belongs to, but both tell how sure a model is, and of how many tokens.

In the paper token i of one tokenizer is paired with token i of the other. Here the text before them pairs them: only positions where
tokens of both begin are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillability.objectives.base import Recorded, check_targets, required, total
from distillability.ops.logprobs import token_logprobs
from distillability.ops.transport import sorted_distance

__all__ = ["ULD"]


@dataclass(frozen=True)
class ULD(Recorded):
    """Σ −log q(target), in nats, and `weight` times the distance of sorted probabilities where positions are aligned."""

    weight: float

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> torch.Tensor:
        check_targets(self.name, student_logits, target_ids)
        distance = sorted_distance(teacher_logits=required(self.name, teacher_logits), student_logits=student_logits)
        return total(self.name, self.weight * distance - token_logprobs(student_logits, target_ids))
