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
from distillability.objectives.top_k import TopK
from distillability.objectives.total_variation import TotalVariation
from distillability.ops.divergences import forward_kl, reverse_kl

__all__ = ["OBJECTIVES", "Objective", "ObjectiveOutput", "build_objective"]


def _all(jsd_weight: float = 0.5, skew: float = 0.1, top_k: int = 32, top_k_rest: bool = True) -> dict[str, Objective]:
    objectives: list[Objective] = [
        SeqKD(),
        ForwardKL(),
        ReverseKL(),
        JSD(jsd_weight),
        SkewedForwardKL(skew),
        SkewedReverseKL(skew),
        TotalVariation(),
        TopK("top_k_forward_kl", forward_kl, top_k, top_k_rest),
        TopK("top_k_reverse_kl", reverse_kl, top_k, top_k_rest),
    ]
    return {objective.name: objective for objective in objectives}


OBJECTIVES: dict[str, Objective] = _all()


def build_objective(name: str, *, jsd_weight: float = 0.5, skew: float = 0.1, top_k: int = 32, top_k_rest: bool = True) -> Objective:
    """The named objective with the recipe's settings.

    Raises:
        UserError: there is no objective of that name.
    """
    if name not in OBJECTIVES:
        raise UserError.single(f"objective {name}", "there is no such objective", f"use one of {', '.join(OBJECTIVES)}")
    return _all(jsd_weight, skew, top_k, top_k_rest)[name]
