"""What an objective is: an unnormalised sum over positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from distillability.config.objectives import ObjectiveRecord
from distillability.errors import UserError

__all__ = ["Objective", "Recorded", "check_targets", "required", "total"]


class Objective(Protocol):
    """A distillation objective."""

    @property
    def name(self) -> str: ...

    @property
    def needs_teacher_logits(self) -> bool: ...

    @property
    def crosses_tokenizers(self) -> bool:
        """Whether teacher and student may have tokenizers of their own."""
        ...

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> torch.Tensor:
        """The sum of the loss over N valid positions: a scalar with gradient, in nats. The caller divides it by the global token count.

        student_logits and teacher_logits are [N, V], target_ids [N] the tokens of the trace.

        For an objective that crosses tokenizers teacher_logits are [N, V'], all −∞ where no token of the teacher begins.

        Raises:
            UserError: the vocabularies differ, a target lies outside the student's, or the sum is not finite.
            ValueError: not one target a position, or no teacher logits where they are needed.
        """
        ...


@dataclass(frozen=True)
class Recorded:
    """An objective whose facts are those of its record."""

    record: ObjectiveRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def needs_teacher_logits(self) -> bool:
        return self.record.needs_teacher_logits

    @property
    def crosses_tokenizers(self) -> bool:
        return self.record.crosses_tokenizers


def required(name: str, teacher_logits: torch.Tensor | None) -> torch.Tensor:
    """The teacher's logits, or a clear error where an objective that needs them got none."""
    if teacher_logits is None:
        raise ValueError(f"the objective {name} needs the teacher's logits")
    return teacher_logits


def check_targets(name: str, student_logits: torch.Tensor, target_ids: torch.Tensor) -> None:
    """One target a position, each a token of the student: an ignored label here would count in the divisor and not in the sum."""
    positions, vocabulary = student_logits.shape
    if target_ids.shape != (positions,):
        raise ValueError(f"the objective {name} got targets {tuple(target_ids.shape)} for {positions} positions")
    if positions and not 0 <= int(target_ids.min()) <= int(target_ids.max()) < vocabulary:
        raise UserError.single(
            f"objective {name}",
            f"targets from {int(target_ids.min())} to {int(target_ids.max())}, outside the student's vocabulary of {vocabulary}",
            "encode the traces with the student's own tokenizer",
        )


def total(name: str, values: torch.Tensor) -> torch.Tensor:
    """The sum of one value a position, refused where it is no number: a step on it would ruin the student in silence."""
    found = values.sum()
    if found.isfinite():
        return found
    infinite, missing = int(values.isinf().sum()), int(values.isnan().sum())
    raise UserError.single(
        f"objective {name}",
        f"of {values.numel()} positions {infinite} are infinite and {missing} not a number",
        "infinite: one model gives no mass where the other does, so mask the same tokens in both, or use jsd; "
        "not a number: a row of logits is empty or the student has diverged, so lower its learning rate",
    )
