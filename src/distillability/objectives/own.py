"""An objective of the user's own, `module:Class`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from distillability.config.objectives import own_objective
from distillability.errors import UserError
from distillability.objectives.base import Objective, Recorded, check_targets

__all__ = ["OwnObjective"]


@dataclass(frozen=True)
class OwnObjective(Recorded):
    """Calls an instance of the class, and refuses what is not the sum of a loss."""

    _objective: Objective = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_objective", own_objective(self.record.name))

    def __call__(self, *, student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, target_ids: torch.Tensor) -> torch.Tensor:
        check_targets(self.name, student_logits, target_ids)
        where = f"objective {self.name}"
        found: object = self._objective(student_logits=student_logits, teacher_logits=teacher_logits, target_ids=target_ids)
        if not isinstance(found, torch.Tensor) or found.ndim or not found.is_floating_point():
            shown = f"a tensor of {found.dtype}, {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise UserError.single(where, f"returned {shown}", "return the sum of the loss over positions, a scalar tensor")
        if student_logits.requires_grad and not found.requires_grad:
            raise UserError.single(where, "its loss has no gradient", "compute it from student_logits, without detaching them")
        if not found.isfinite():
            raise UserError.single(where, f"its sum is {found.item()}", "mask tokens without mass, or lower the learning rate")
        return found
