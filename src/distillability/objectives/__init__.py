"""Distillation objectives; the registry below is what recipes name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from distillability.errors import UserError
from distillability.objectives.base import Objective
from distillability.objectives.divergence import ByDivergence
from distillability.objectives.seqkd import SeqKD
from distillability.objectives.uld import Universal
from distillability.ops.divergences import forward_kl, jsd, reverse_kl, skewed_forward_kl, skewed_reverse_kl, total_variation
from distillability.ops.support import on_top_k

__all__ = ["OBJECTIVES", "Objective", "ObjectiveSettings", "build_objective"]


@dataclass(frozen=True)
class ObjectiveSettings:
    """What a recipe's [distill] says of objectives, under the same names."""

    jsd_weight: float = 0.5
    skew: float = 0.1
    top_k: int = 32
    top_k_rest: bool = True
    universal_weight: float = 1.5


def _all(settings: ObjectiveSettings) -> dict[str, Objective]:
    likeliest = partial(on_top_k, k=settings.top_k, rest=settings.top_k_rest)
    objectives: list[Objective] = [
        SeqKD(),
        ByDivergence("forward_kl", forward_kl),
        ByDivergence("reverse_kl", reverse_kl),
        ByDivergence("jsd", partial(jsd, teacher_weight=settings.jsd_weight)),
        ByDivergence("skewed_forward_kl", partial(skewed_forward_kl, skew=settings.skew)),
        ByDivergence("skewed_reverse_kl", partial(skewed_reverse_kl, skew=settings.skew)),
        ByDivergence("total_variation", total_variation),
        ByDivergence("top_k_forward_kl", partial(likeliest, forward_kl)),
        ByDivergence("top_k_reverse_kl", partial(likeliest, reverse_kl)),
        Universal(settings.universal_weight),
    ]
    return {objective.name: objective for objective in objectives}


_DEFAULTS = ObjectiveSettings()
OBJECTIVES: dict[str, Objective] = _all(_DEFAULTS)


def build_objective(name: str, settings: ObjectiveSettings = _DEFAULTS) -> Objective:
    """The named objective.

    Raises:
        UserError: there is no objective of that name.
    """
    if name not in OBJECTIVES:
        raise UserError.single(f"objective {name}", "there is no such objective", f"use one of {', '.join(OBJECTIVES)}")
    return _all(settings)[name]
