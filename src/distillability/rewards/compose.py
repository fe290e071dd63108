"""The advantage: task utility and calibration reward, normalised separately, added, with the knob between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from distillability.errors import Problem, UserError
from distillability.types import Grade

__all__ = ["Advantage", "KnobSchedule", "compatibility_scale", "compose_advantage", "counts_as_right", "scheduled_knob"]

_EPSILON = 1e-4  # as in TRL's group normalisation
_MARGIN = 0.1  # of the gap of z(R), kept between the worst right and the best wrong completion
_SPREAD_FLOOR = 0.1  # of s_C: in the z + z form a group that spreads less than this says nothing


@dataclass(frozen=True)
class Advantage:
    """advantage = z(R) + calibration, both [P, G] float64, dimensionless.

    metrics: compatibility_share, the share of Σ|advantage| that comes from C; compatibility_variance_share, the share of the advantage's
    variance owed to C, Σ calibration · advantage / Σ advantage², of which the task has the rest (both None where nothing moves);
    all_right_groups, all_wrong_groups and mixed_groups, which add up to 1; gated_groups, the share of groups in which the gate shrank C′.
    """

    advantage: torch.Tensor
    calibration: torch.Tensor
    metrics: dict[str, float | None]


def compatibility_scale(compatibility: torch.Tensor, right: torch.Tensor) -> float | None:
    """s_C: the within-group standard deviation of C among right completions, pooled over groups.

    Args:
        compatibility: [P, G], nan where missing. right: [P, G].

    Returns:
        sqrt(Σ (C − group mean)² / Σ (n_group − 1)), in the unit of `compatibility`; None where no group has two right completions with C.
    """
    counted = right & ~compatibility.isnan()
    centred = _centre(compatibility.double(), counted)
    freedom = (counted.sum(1) - 1).clamp(min=0).sum()
    return float((centred.square().sum() / freedom).sqrt()) if freedom > 0 else None


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
    """A = z(R) + knob · C′ for groups of completions of one prompt; z(r) = (r − mean) / (std + 1e-4), std with G − 1.

    Args:
        task_reward: [P, G], any finite reward, graded ones too. right: [P, G] bool, which completions count as right.
        compatibility: [P, G], nan where missing; a missing C takes part in no mean and adds nothing.
        knob: > 0 raises distillability, < 0 lowers it.
        scale: s_C, one number, in the unit of `compatibility`.
        form: `fixed_scale`: C centred on the completions that count, divided by s_C, clipped, centred again (ours);
            `z_sum`: z(C) within the group (the paper's), 0 where the group spreads less than 0.1 · s_C.
        clip: bound on |C − mean| / s_C before the second centring, fixed scale only. With n completions that count, |C′| itself is at
            most 2 · clip · (n − 1) / n: the second centring moves the clipped values by up to clip. None leaves C without a bound.
        gate: `correct`: C counts among right completions only, and is shrunk until the worst right one stays above the best wrong one
            by a tenth of the gap between their z(R); `none`: C counts wherever there is one.
        floor_multiplier: λ of an accuracy floor; the calibration part is divided by 1 + λ.

    At knob 0 the advantage is exactly z(R), TRL's `scale_rewards="group"`.

    Raises:
        UserError: shapes that differ, groups of one, a reward that is not finite, an infinite C, no usable scale, clip or multiplier.

    Source: z + z is the paper's (arXiv 2604.18963); the fixed scale, the clip, the gate and the spread floor are ours.
    """
    _validate(task_reward, right, compatibility, knob, scale, clip, floor_multiplier)
    task, compatibility = _z(task_reward.double()), compatibility.double()
    counted = ~compatibility.isnan() & right if gate == "correct" else ~compatibility.isnan()
    if knob == 0:
        shaped = torch.zeros_like(task)  # plain GRPO needs no s_C
    elif form == "fixed_scale":
        shaped = _fixed_scale(compatibility, counted, scale, clip)
    else:
        shaped = _z_sum(compatibility, counted, scale)
    calibration = shaped * (knob / (1 + floor_multiplier))
    shrink = _order_preserving(task, calibration, right) if gate == "correct" else task.new_ones(len(task))
    calibration = calibration * shrink[:, None]
    return Advantage(task + calibration, calibration, _metrics(task, calibration, right, shrink))


def _validate(
    task_reward: torch.Tensor,
    right: torch.Tensor,
    compatibility: torch.Tensor,
    knob: float,
    scale: float,
    clip: float | None,
    floor_multiplier: float,
) -> None:
    """Everything that would otherwise come out as a nan or as another reward."""
    shapes = {tuple(tensor.shape) for tensor in (task_reward, right, compatibility)}
    problems = []
    if len(shapes) != 1 or task_reward.ndim != 2:
        problems.append(
            Problem("task_reward, right, compatibility", f"shapes {sorted(shapes)}", "give all three as [prompts, completions]")
        )
    elif task_reward.shape[1] < 2:
        problems.append(Problem("num_generations", "a group of one has nothing to be compared with", "draw at least 2 a prompt"))
    if not task_reward.isfinite().all():
        problems.append(Problem("task_reward", "not finite", "fix the grader: every completion needs a number"))
    if compatibility.isinf().any():
        problems.append(Problem("compatibility", "infinite", "mark what a model could not score as missing (nan)"))
    if not math.isfinite(knob):
        problems.append(Problem("knob", f"{knob}", "give a finite number"))
    if knob != 0 and not 0 < scale < math.inf:
        problems.append(Problem("scale", f"s_C is {scale}", "measure it on right completions of the plain teacher that differ in C"))
    if clip is not None and not clip > 0:
        problems.append(Problem("clip", f"{clip} leaves nothing of C", "give a number above 0, or none at all"))
    if not 0 <= floor_multiplier < math.inf:
        problems.append(Problem("floor_multiplier", f"{floor_multiplier}", "give a finite number, 0 or more"))
    if problems:
        raise UserError(problems)


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
    return torch.where(spread < _SPREAD_FLOOR * scale, 0.0, centred / (spread + _EPSILON))


def _order_preserving(task: torch.Tensor, calibration: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """For each group the largest factor ≤ 1 on C′ that keeps min A(right) ≥ max A(wrong) + a tenth of the gap of z(R).

    Groups without both kinds are left alone. Where the rewards themselves put a wrong completion above a right one no factor restores
    the order, so C′ is 0 there and does not add to the harm.
    """
    infinity = float("inf")
    lowest_right = torch.where(right, task, infinity).min(1).values
    highest_wrong = torch.where(right, -infinity, task).max(1).values
    gap = lowest_right - highest_wrong
    # Wrong completions have no calibration part, so a right one may sink by what lies above the margin.
    room = (task - highest_wrong[:, None]) - _MARGIN * gap[:, None]
    factor = torch.where(right & (calibration < 0), room / -calibration.clamp(max=-1e-300), infinity).min(1).values
    factor = torch.where(gap >= 0, factor.clamp(min=0.0, max=1.0), 0.0)
    return torch.where(_mixed(right), factor, 1.0)


def _mixed(right: torch.Tensor) -> torch.Tensor:
    return right.any(1) & ~right.all(1)


def _metrics(task: torch.Tensor, calibration: torch.Tensor, right: torch.Tensor, shrink: torch.Tensor) -> dict[str, float | None]:
    ours, whole = calibration.abs().sum(), calibration.abs().sum() + task.abs().sum()
    advantage = task + calibration  # its mean is 0 in every group, so squares are variance
    variance = advantage.square().sum()
    all_right, all_wrong = right.all(1), ~right.any(1)
    return {
        "compatibility_share": float(ours / whole) if whole > 0 else None,
        "compatibility_variance_share": float((calibration * advantage).sum() / variance) if variance > 0 else None,
        "all_right_groups": float(all_right.double().mean()),
        "all_wrong_groups": float(all_wrong.double().mean()),
        "mixed_groups": float(_mixed(right).double().mean()),
        "gated_groups": float((shrink < 1).double().mean()),
    }


def counts_as_right(grade: Grade, require: Literal["steps", "none"]) -> bool:
    """Right in the answer and, with `require="steps"`, in every visible step; the answer decides where a task cannot check steps.

    Source: ours.
    """
    return grade.right and (require == "none" or grade.right_steps is not False)


KnobSchedule = Literal["constant", "linear"]


def scheduled_knob(knob: float, schedule: KnobSchedule, *, warmup_share: float, step: int, max_steps: int) -> float:
    """η of step number `step`, counted from 0.

    `constant`: the knob. `linear`: knob · min(1, (step + 1) / w), w = warmup_share · max_steps but at least 1; whole from step w − 1 on.

    Source: ours.
    """
    if schedule == "constant":
        return knob
    return knob * min(1.0, (step + 1) / max(1.0, warmup_share * max_steps))
