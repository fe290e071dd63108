"""The advantage: task utility and calibration reward, normalised separately, added, with the knob between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["Advantage", "compatibility_scale", "compose_advantage"]

_EPSILON = 1e-4  # as in TRL's group normalisation
_MARGIN = 0.1  # of the gap of z(R), kept between the worst right and the best wrong completion
_SPREAD_FLOOR = 0.1  # of s_C: in the z + z form a group that spreads less than this says nothing


@dataclass(frozen=True)
class Advantage:
    """advantage = z(R) + calibration, both [P, G] float64; metrics are means over the batch."""

    advantage: torch.Tensor
    calibration: torch.Tensor
    metrics: dict[str, float | None]


def compatibility_scale(compatibility: torch.Tensor, right: torch.Tensor) -> float:
    """s_C: the within-group standard deviation of C among right completions, pooled over groups.

    Args:
        compatibility: [P, G], nan where missing. right: [P, G].

    Returns:
        sqrt(Σ (C − group mean)² / Σ (n_group − 1)); 0 where no group has two right completions.
    """
    counted = right & ~compatibility.isnan()
    centred = torch.where(counted, _centre(compatibility, counted), 0.0)
    freedom = (counted.sum(1) - 1).clamp(min=0).sum()
    return float((centred.square().sum() / freedom).sqrt()) if freedom > 0 else 0.0


def compose_advantage(
    *,
    task_reward: torch.Tensor,
    right: torch.Tensor,
    compatibility: torch.Tensor,
    knob: float,
    scale: float,
    form: Literal["fixed_scale", "z_sum"] = "fixed_scale",
    clip: float | None = 2.0,
    gate: Literal["correct", "none"] = "correct",
    floor_multiplier: float = 0.0,
) -> Advantage:
    """A = z(R) + knob · C′ for groups of completions of one prompt.

    Args:
        task_reward: [P, G], any finite reward. right: [P, G], which completions count as right.
        compatibility: [P, G], nan where missing; a missing C takes part in no mean and adds nothing.
        scale: s_C, one number, in the unit of `compatibility`.
        form: `fixed_scale`: C centred on the completions that count, divided by s_C, clipped, centred again (ours);
            `z_sum`: C whitened within the group (the paper's), 0 where the group spreads less than 0.1 · s_C.
        gate: `correct`: C counts among right completions only, and is shrunk until the worst right one stays above the best wrong one
            by a tenth of the gap between their z(R).
        floor_multiplier: λ of an accuracy floor; the calibration part is divided by 1 + λ.

    At knob 0 the advantage is exactly z(R) = (R − mean) / (std + 1e-4), TRL's `scale_rewards="group"`.
    """
    task = _z(task_reward.double())
    counted = ~compatibility.isnan() & (right if gate == "correct" else torch.ones_like(right))
    shaped = _fixed_scale(compatibility, counted, scale, clip) if form == "fixed_scale" else _z_sum(compatibility, counted, scale)
    calibration = shaped * knob / (1 + floor_multiplier)
    shrink = _order_preserving(task, calibration, right) if gate == "correct" else torch.ones(len(task), dtype=torch.float64)
    calibration = calibration * shrink[:, None]
    return Advantage(task + calibration, calibration, _metrics(task, calibration, right, shrink))


def _z(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + _EPSILON)


def _centre(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Minus the mean over what counts, 0 elsewhere."""
    kept = torch.where(counted, values, 0.0)
    mean = kept.sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
    return torch.where(counted, kept - mean, 0.0)


def _fixed_scale(compatibility: torch.Tensor, counted: torch.Tensor, scale: float, clip: float | None) -> torch.Tensor:
    scaled = _centre(compatibility, counted) / scale
    clipped = scaled if clip is None else scaled.clamp(-clip, clip)
    return _centre(clipped, counted)


def _z_sum(compatibility: torch.Tensor, counted: torch.Tensor, scale: float) -> torch.Tensor:
    centred = _centre(compatibility, counted)
    freedom = (counted.sum(1, keepdim=True) - 1).clamp(min=1)
    spread = (centred.square().sum(1, keepdim=True) / freedom).sqrt()
    return torch.where(spread < _SPREAD_FLOOR * scale, 0.0, centred / (spread + _EPSILON * scale))


def _order_preserving(task: torch.Tensor, calibration: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """For each group the largest factor ≤ 1 on C′ that keeps min A(right) ≥ max A(wrong) + a tenth of the gap of z(R).

    Groups without both kinds, and groups whose rewards do not put every right completion above every wrong one, are left alone.
    """
    infinity = float("inf")
    lowest_right = torch.where(right, task, infinity).min(1).values
    highest_wrong = torch.where(right, -infinity, task).max(1).values
    gap = lowest_right - highest_wrong
    # Wrong completions have no calibration part, so a right one may sink by what lies above the margin.
    room = (task - highest_wrong[:, None]) - _MARGIN * gap[:, None]
    factor = torch.where(right & (calibration < 0), room / -calibration.clamp(max=-1e-300), infinity).min(1).values
    mixed = right.any(1) & ~right.all(1) & (gap > 0)
    return torch.where(mixed, factor.clamp(max=1.0), 1.0)


def _metrics(task: torch.Tensor, calibration: torch.Tensor, right: torch.Tensor, shrink: torch.Tensor) -> dict[str, float | None]:
    ours, whole = calibration.abs().sum(), calibration.abs().sum() + task.abs().sum()
    all_right, all_wrong = right.all(1), ~right.any(1)
    return {
        "compatibility_share": float(ours / whole) if whole > 0 else None,
        "all_right_groups": float(all_right.double().mean()),
        "all_wrong_groups": float(all_wrong.double().mean()),
        "gated_groups": float((shrink < 1).double().mean()),
    }
