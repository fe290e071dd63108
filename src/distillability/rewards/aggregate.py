"""Several proxies: one C of theirs all, the mean or the worst case."""

from __future__ import annotations

import math
from typing import Literal

import torch

__all__ = ["Aggregate", "aggregate"]

Aggregate = Literal["mean", "worst"]


def aggregate(compatibility: torch.Tensor, counted: torch.Tensor, how: Aggregate, knob: float) -> torch.Tensor:
    """One C [P, G] of the proxies' [K, P, G], nan where no proxy has one.

    Each proxy's C is first taken from its own mean over those of the group's completions that count and have it,

        D_k,i = C_k,i − mean over counted j of C_k,j

    since only differences within a group steer: neither a proxy that likes every text less than the others, nor one that could not encode
    a text, may tip the balance. Then

        mean:   C_i = mean_k D_k,i              over the proxies that have it
        worst:  C_i = sign(η) · min_k sign(η) · D_k,i       the least gain η · C_i that any proxy promises

    Args:
        compatibility: nan where a proxy has none. counted: [P, G], the completions among which C will be compared.
        how: `mean` or `worst`. knob: η, of which `worst` needs the sign; at 0 it is taken for positive.

    One proxy's C is returned as it is.

    Source: ours.
    """
    if len(compatibility) == 1:
        return compatibility[0]
    known = ~compatibility.isnan()
    usable = known & counted
    mean = torch.where(usable, compatibility, 0.0).sum(-1, keepdim=True) / usable.sum(-1, keepdim=True).clamp(min=1)
    centred = compatibility - mean
    if how == "mean":
        found = torch.where(known, centred, 0.0).sum(0) / known.sum(0)
    else:
        sign = -1.0 if knob < 0 else 1.0
        found = sign * torch.where(known, sign * centred, math.inf).amin(0)
    return torch.where(known.any(0), found, math.nan)
