"""The knob of each step."""

from __future__ import annotations

from typing import Literal

__all__ = ["KnobSchedule", "scheduled_knob"]

KnobSchedule = Literal["constant", "linear"]


def scheduled_knob(knob: float, schedule: KnobSchedule, *, warmup_share: float, step: int, max_steps: int) -> float:
    """η of step number `step`, counted from 0.

    `constant`: the knob. `linear`: knob · min(1, (step + 1) / w), w = warmup_share · max_steps but at least 1; whole from step w − 1 on.

    Source: ours.
    """
    if schedule == "constant":
        return knob
    return knob * min(1.0, (step + 1) / max(1.0, warmup_share * max_steps))
