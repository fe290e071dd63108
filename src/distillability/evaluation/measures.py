"""What calibration did to distillation, as numbers with intervals: gap closed, kept, yield, headline up, teacher kept.

All definitions are our own. Letters: p the student of the plain teacher, d of the distillable one, u of the undistillable one, t the plain
teacher under the same decoding, b the floor. Arrays are correctness, [seeds, prompts] in [0, 1], one column for each prompt of a split, in
the same order for every arm. Choices are made on the validate split, numbers come from the test split. A measure that cannot be stated is
None with a reason, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillability.config.sources import CEILINGS
from distillability.errors import UserError
from distillability.evaluation.intervals import (
    RESAMPLES,
    Interval,
    correctness,
    few_seeds_factor,
    resample_prompts,
    resample_seeds,
    score_replicates,
    two_way_difference,
    two_way_mean,
    two_way_name,
)

__all__ = [
    "SMALLEST_GAP",
    "Candidate",
    "GapClosed",
    "Measure",
    "Scores",
    "attack_yield",
    "floor",
    "gap_closed",
    "headline_up",
    "kept",
]

Floats = NDArray[np.float64]

SMALLEST_GAP = 0.10  # a ratio over less than ten points is noise over noise
_SMALLEST_REPLICATE = 0.01  # a replicate whose denominator is 0 or less would flip the sign: let the ratio be large instead


@dataclass(frozen=True)
class Measure:
    """A number between its bounds, or None with the reason why there is none.

    n: test prompts, or what the measure says it counts. chosen: what was selected on the validate split, by part of the formula.
    A value may lack bounds, with a reason.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    reason: str | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if None in (self.value, self.low, self.high) and not self.reason:
            raise ValueError("a measure without a value or bounds must give a reason")

    @classmethod
    def of(cls, interval: Interval, chosen: Mapping[str, str] | None = None) -> Measure:
        """The measure that an interval states."""
        return cls(interval.value, interval.low, interval.high, interval.n, interval.method, None, chosen or {})


@dataclass(frozen=True, eq=False)
class Scores:
    """Correctness of one arm's students: `test` [S, N], and `validate` [S, M] of the same students wherever a choice is made.

    One object is one set of students: pass the same object where the same students stand in two places.
    """

    test: Floats
    validate: Floats | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "test", correctness(self.test, "test scores"))
        if self.validate is None:
            return
        object.__setattr__(self, "validate", correctness(self.validate, "validate scores"))
        if len(self.validate) != len(self.test):
            raise UserError.single(
                "scores", f"{len(self.validate)} seeds on validate, {len(self.test)} on test", "measure the same students on both splits"
            )


Candidate = Scores | float  # a float is known without error: the task's chance level


@dataclass(frozen=True)
class GapClosed:
    """d − p, and (d − p)/(t − p) where there is a gap to close."""

    difference: Measure
    ratio: Measure


def gap_closed(
    *,
    distillable: ArrayLike,
    plain: ArrayLike,
    teacher: ArrayLike,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> GapClosed:
    """How much of the gap between the plain teacher and its student the distillable teacher's student closes; test scores.

    The ratio is missing where t − p < 0.10, and has no bounds where t − p cannot be told from 0.
    """
    options: dict[str, Any] = {"rng": rng, "resamples": resamples, "confidence": confidence}
    difference = Measure.of(two_way_difference(distillable, plain, **options))
    gap = two_way_difference(teacher, plain, **options)
    if gap.value < SMALLEST_GAP:
        reason = f"teacher − plain student is {gap.value:.3f}, under {SMALLEST_GAP:.2f}: no gap to close"
        return GapClosed(difference, Measure(None, None, None, difference.n, difference.method, reason))
    d, p, t = (Scores(correctness(values)) for values in (distillable, plain, teacher))
    ratio = replace(_ratio(above={"d": d}, base={"p": p}, whole={"t": t}, **options)[0], chosen={})
    if gap.low <= 0:
        reason = f"no bounds: teacher − plain student may be {gap.low:.3f}"
        ratio = Measure(ratio.value, None, None, ratio.n, ratio.method, reason)
    return GapClosed(difference, ratio)


def floor(*, chance: float, students: Mapping[str, Scores]) -> dict[str, Candidate]:
    """The candidates for b: the task's chance level, the student before (`none`), students of what the attacker holds (`gold_answers`).

    b is the best of them, chosen on the validate split; its name is in the `chosen` of every measure that uses it.

    Raises:
        UserError: gold steps among the students; a chance level outside [0, 1).
    """
    _free(students, "floor")
    if not 0 <= chance < 1:
        raise UserError.single("chance", f"{chance} is not in [0, 1)", "give the share that a well-formed guess scores")
    return {"chance": float(chance), **students}


def kept(
    *,
    undistillable: Scores,
    plain: Scores,
    floor: Mapping[str, Candidate],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Measure:
    """(u − b)/(p − b): the share of what the plain teacher teaches that the undistillable one still does.

    Missing, with a reason, where the lower bound of p − b is under 0.10.
    """
    return attack_yield(
        guard={"undistillable": undistillable}, plain={"plain": plain}, floor=floor, rng=rng, resamples=resamples, confidence=confidence
    )


def attack_yield(
    *,
    guard: Mapping[str, Scores],
    plain: Mapping[str, Scores],
    floor: Mapping[str, Candidate],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Measure:
    """(best attack on the guard − b)/(best attack on the plain teacher − b), same access and budget.

    Attackers and floor are selected on the validate split, again in every replicate; the bootstrap over prompts and seeds is of the whole
    ratio. Missing, with a reason, where the lower bound of the denominator is under 0.10.
    """
    options: dict[str, Any] = {"rng": rng, "resamples": resamples, "confidence": confidence}
    measure, (_, base, whole) = _ratio(above=guard, base=floor, whole=plain, **options)
    chosen = {"guard": measure.chosen["above"], "plain": measure.chosen["whole"], "floor": measure.chosen["base"]}
    gap = _above_floor(whole, base, **options)
    if gap.low < SMALLEST_GAP:
        reason = (
            f"{chosen['plain']} − floor ({chosen['floor']}) is {gap.value:.3f}, its lower bound {gap.low:.3f}, under {SMALLEST_GAP:.2f}: "
            "too little was taught to say what share is left"
        )
        return Measure(None, None, None, measure.n, measure.method, reason, chosen)
    return replace(measure, chosen=chosen)


def headline_up(
    *,
    distillable: Scores,
    alternatives: Mapping[str, Scores],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Measure:
    """d minus the best free alternative, which is chosen on the validate split.

    The interval is of the difference to the one chosen. A lucky student is lucky on both splits, so the choice favours the alternative.

    Raises:
        UserError: a ceiling among the alternatives, or none at all.
    """
    _free(alternatives, "free alternatives")
    best = _best(alternatives, "free alternatives")
    interval = two_way_difference(distillable.test, alternatives[best].test, rng=rng, resamples=resamples, confidence=confidence)
    return Measure.of(interval, {"alternative": best})


# ---- Selection and ratio --------------------------------------------------------------------------------------------------------


def _ratio(
    *,
    above: Mapping[str, Candidate],
    base: Mapping[str, Candidate],
    whole: Mapping[str, Candidate],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> tuple[Measure, tuple[Candidate, Candidate, Candidate]]:
    """(above - base)/(whole - base) of the best of each pool, with percentile bounds, and the three that were chosen."""
    pools = {"above": above, "base": base, "whole": whole}
    chosen = {label: _best(pool, label) for label, pool in pools.items()}
    best = (above[chosen["above"]], base[chosen["base"]], whole[chosen["whole"]])
    a, b, w = (_mean(candidate, "test") for candidate in best)
    n, seeds = _shape(best)
    method = f"{two_way_name(*seeds)} of the whole ratio, percentile"
    if w <= b:
        return Measure(None, None, None, n, method, f"the denominator is {w - b:.3f}", chosen), best
    value = (a - b) / (w - b)
    sensitivities = zip(best, (1.0, value - 1, -value), strict=True)
    widening = few_seeds_factor([(arm.test, weight) for arm, weight in sensitivities if isinstance(arm, Scores)], confidence)
    drawn = _resample_pools(list(pools.values()), rng=rng, resamples=resamples, widening=widening)
    replicates = (drawn[0] - drawn[1]) / np.maximum(drawn[2] - drawn[1], _SMALLEST_REPLICATE)
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Measure(value, min(float(low), value), max(float(high), value), n, method, None, chosen), best


def _resample_pools(pools: list[Mapping[str, Candidate]], *, rng: np.random.Generator, resamples: int, widening: float) -> list[Floats]:
    """Replicates [R] of the test mean of each pool's best, chosen anew on the validate replicates.

    All arms share their resampled prompts, and an arm that sits in two pools is resampled once.
    """
    arms = dict.fromkeys(candidate for pool in pools for candidate in pool.values() if isinstance(candidate, Scores))
    weights = {split: resample_prompts(n, resamples, rng) for split, n in _prompts(list(arms)).items()}
    drawn = {arm: _resample_arm(arm, weights, rng, widening) for arm in arms}

    def replicates(pool: Mapping[str, Candidate], split: str) -> Floats:
        return np.stack([drawn[arm][split] if isinstance(arm, Scores) else np.full(resamples, arm) for arm in pool.values()])

    return [
        replicates(pool, "test")[replicates(pool, "validate").argmax(axis=0), np.arange(resamples)]
        if len(pool) > 1
        else replicates(pool, "test")[0]
        for pool in pools
    ]


def _resample_arm(arm: Scores, weights: Mapping[str, Floats], rng: np.random.Generator, widening: float) -> dict[str, Floats]:
    """Replicates [R] of an arm on each split it was measured on; the seeds' luck is the same on both, the prompts' is not."""
    seed_weights = resample_seeds(len(arm.test), len(weights["test"]), rng)
    splits = {"test": arm.test} if arm.validate is None else {"test": arm.test, "validate": arm.validate}
    return {
        split: score_replicates(array, prompt_weights=weights[split], seed_weights=seed_weights, widening=widening, rng=rng)
        for split, array in splits.items()
    }


def _prompts(arms: list[Scores]) -> dict[str, int]:
    """Number of prompts of each split, the same for every arm."""
    tests = {arm.test.shape[1] for arm in arms}
    validates = {arm.validate.shape[1] for arm in arms if arm.validate is not None}
    if len(tests) != 1 or len(validates) > 1:
        raise UserError.single(
            "scores",
            f"arms have {sorted(tests)} test and {sorted(validates)} validate prompts",
            "measure every arm on the same prompts, in the same order",
        )
    return {"test": tests.pop(), **({"validate": validates.pop()} if validates else {})}


def _best(pool: Mapping[str, Candidate], label: str) -> str:
    """Name of the candidate with the highest mean on the validate split; the first of equals."""
    if not pool:
        raise UserError.single(label, "nothing to choose from", "measure at least one")
    if len(pool) == 1:
        return next(iter(pool))
    missing = [name for name, candidate in pool.items() if isinstance(candidate, Scores) and candidate.validate is None]
    if missing:
        raise UserError.single(label, f"no validate scores of {', '.join(missing)}", "choices are made on validate: measure it there too")
    return max(pool, key=lambda name: _mean(pool[name], "validate"))


def _mean(candidate: Candidate, split: str) -> float:
    return float(getattr(candidate, split).mean()) if isinstance(candidate, Scores) else candidate


def _above_floor(scores: Candidate, base: Candidate, *, rng: np.random.Generator, resamples: int, confidence: float) -> Interval:
    """Interval of p − b; a chance level shifts p's own interval."""
    if not isinstance(scores, Scores):
        raise UserError.single("plain", f"an attack scored {scores} without students", "give its correctness, [seeds, prompts]")
    if isinstance(base, Scores):
        return two_way_difference(scores.test, base.test, rng=rng, resamples=resamples, confidence=confidence)
    mean = two_way_mean(scores.test, rng=rng, resamples=resamples, confidence=confidence)
    return Interval(mean.value - base, mean.low - base, mean.high - base, mean.method, mean.n)


def _shape(best: Sequence[Candidate]) -> tuple[int, list[int]]:
    """Test prompts, and the seeds of each arm."""
    arms = [candidate for candidate in best if isinstance(candidate, Scores)]
    return _prompts(arms)["test"], [len(arm.test) for arm in arms]


def _free(pool: Mapping[str, Any], label: str) -> None:
    ceilings = [name for name in pool if name in CEILINGS]
    if ceilings:
        raise UserError.single(
            label, f"{', '.join(ceilings)} cannot be had without the answer or gold work", "show it as a ceiling beside them"
        )
