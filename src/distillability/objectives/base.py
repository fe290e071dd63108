"""What an objective is: an unnormalised sum over positions, how many they were, and what to log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

__all__ = ["Objective", "ObjectiveOutput", "required"]


@dataclass(frozen=True)
class ObjectiveOutput:
    """sum: scalar with gradient, in nats over `n_tokens` positions; whoever holds the global token count divides."""

    sum: torch.Tensor
    n_tokens: int
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A distillation objective."""

    @property
    def name(self) -> str: ...

    @property
    def needs_teacher_logits(self) -> bool: ...

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> ObjectiveOutput:
        """student_logits and teacher_logits [N, V] at the N valid positions, target_ids [N] the tokens of the trace."""
        ...


def required(name: str, teacher_logits: torch.Tensor | None) -> torch.Tensor:
    """The teacher's logits, or a clear error where an objective that needs them got none."""
    if teacher_logits is None:
        raise ValueError(f"the objective {name} needs the teacher's logits")
    return teacher_logits
