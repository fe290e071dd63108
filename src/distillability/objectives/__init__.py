"""One distillation objective = one file; the registry below is what recipes name."""

from __future__ import annotations

from distillability.errors import UserError
from distillability.objectives.base import Objective, ObjectiveOutput
from distillability.objectives.forward_kl import ForwardKL
from distillability.objectives.jsd import JSD
from distillability.objectives.reverse_kl import ReverseKL
from distillability.objectives.seqkd import SeqKD
from distillability.objectives.skewed_forward_kl import SkewedForwardKL
from distillability.objectives.skewed_reverse_kl import SkewedReverseKL

__all__ = ["OBJECTIVES", "Objective", "ObjectiveOutput", "build_objective"]

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective for objective in (SeqKD(), ForwardKL(), ReverseKL(), JSD(), SkewedForwardKL(), SkewedReverseKL())
}


def build_objective(name: str, *, jsd_weight: float = 0.5, skew: float = 0.1) -> Objective:
    """The named objective with the recipe's settings.

    Raises:
        UserError: there is no objective of that name.
    """
    if name not in OBJECTIVES:
        raise UserError.single(f"objective {name}", "there is no such objective", f"use one of {', '.join(OBJECTIVES)}")
    configured: dict[str, Objective] = {
        objective.name: objective for objective in (JSD(jsd_weight), SkewedForwardKL(skew), SkewedReverseKL(skew))
    }
    return configured.get(name, OBJECTIVES[name])
