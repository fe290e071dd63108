"""The rules that stop a calibration, one small function each.

A line of metrics describes the completions of its step, which were drawn before its update: it shows the policy that the step before left
behind. So what a line of step s finds wrong is wrong from the weights of step s − 1 on, and an earlier checkpoint is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distillability.config.recipe import Calibrate

__all__ = ["RULES", "CalibrationStopped", "Stop", "Watched", "find_stop"]


class CalibrationStopped(Exception):
    """Something broke in the middle of a step, whose update was not made; the message is the reason."""


@dataclass(frozen=True)
class Stop:
    """Why a calibration stops, and the first step whose weights are not to be kept."""

    reason: str
    bad_from: int


@dataclass(frozen=True)
class Watched:
    """What rules look at.

    row: the metrics of the step that has just ended; first: those of the first step; measurements: of the accuracy floor, so far.
    """

    row: dict[str, Any]
    first: dict[str, Any]
    settings: Calibrate
    measurements: Sequence[dict[str, Any]] = ()

    @property
    def seen(self) -> int:
        """The step whose weights `row` describes."""
        return int(self.row["step"]) - 1

    def ratio(self, key: str) -> float | None:
        """A metric over what it was in the first step; None where either is missing, or the first is 0."""
        now, before = self.row.get(key), self.first.get(key)
        return now / before if now is not None and before else None


Rule = Callable[[Watched], Stop | None]


def not_finite(watched: Watched) -> Stop | None:
    """No metric may be nan or infinite."""
    broken = [key for key, value in watched.row.items() if isinstance(value, float) and not math.isfinite(value)]
    values = ", ".join(f"{key} is {watched.row[key]}" for key in broken)
    return Stop(f"{values} after step {watched.seen}", watched.seen) if broken else None


def anchor_over_budget(watched: Watched) -> Stop | None:
    """The policy may go so far from the original teacher and no further."""
    budget, anchor = watched.settings.anchor_budget, watched.row["anchor_nats"]
    if budget is None or anchor is None or anchor <= budget:
        return None
    return Stop(f"anchor {anchor:.2f} nats a sequence is over its budget of {budget} after step {watched.seen}", watched.seen)


def entropy_collapsed(watched: Watched) -> Stop | None:
    """A policy that has nothing left to draw from learns nothing more."""
    least, share = watched.settings.stops.entropy_share, watched.ratio("entropy")
    if least is None or share is None or share >= least:
        return None
    return Stop(f"entropy {share:.2f} of the first step's is under {least} after step {watched.seen}", watched.seen)


def length_ran_away(watched: Watched) -> Stop | None:
    """Completions that grow and grow are the oldest way to please a reward."""
    most, factor = watched.settings.stops.length_factor, watched.ratio("bytes")
    if most is None or factor is None or factor <= most:
        return None
    return Stop(f"completions are {factor:.1f} times as long as in the first step, over {most:g}, after step {watched.seen}", watched.seen)


def accuracy_under_floor(watched: Watched) -> Stop | None:
    """What several measurements in a row found under the floor will hardly come back."""
    floor = watched.settings.accuracy_floor
    last = [] if floor is None else list(watched.measurements[-floor.patience :])
    if floor is None or len(last) < floor.patience or any(row["low"] >= floor.accuracy for row in last):
        return None
    lows = ", ".join(f"{row['low']:.3f}" for row in last)
    reason = f"held-out accuracy is under its floor of {floor.accuracy:g} (lower bounds {lows}) after step {last[-1]['step']}"
    return Stop(reason, bad_from=last[0]["step"])


RULES: Sequence[Rule] = (not_finite, anchor_over_budget, entropy_collapsed, length_ran_away, accuracy_under_floor)


def find_stop(watched: Watched) -> Stop | None:
    """What the first rule that objects says."""
    return next((stop for rule in RULES if (stop := rule(watched)) is not None), None)
