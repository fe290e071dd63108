"""One distillation objective = one file; the registry below is what recipes name."""

from __future__ import annotations

from distillability.errors import UserError
from distillability.objectives.base import Objective, ObjectiveOutput
from distillability.objectives.forward_kl import ForwardKL
from distillability.objectives.jsd import JSD
from distillability.objectives.reverse_kl import ReverseKL
from distillability.objectives.seqkd import SeqKD

__all__ = ["OBJECTIVES", "Objective", "ObjectiveOutput", "build_objective"]

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (SeqKD(), ForwardKL(), ReverseKL(), JSD())}


def build_objective(name: str, *, jsd_weight: float = 0.5) -> Objective:
    """The named objective with the recipe's settings.

    Raises:
        UserError: there is no objective of that name.
    """
    if name not in OBJECTIVES:
        raise UserError.single(f"objective {name}", "there is no such objective", f"use one of {', '.join(OBJECTIVES)}")
    return JSD(jsd_weight) if name == "jsd" else OBJECTIVES[name]
