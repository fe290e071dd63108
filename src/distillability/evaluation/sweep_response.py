"""Does the knob dose? Measures of a sweep: the order of students along the knob, levels between its ends, and how far calibration went.

All definitions are our own. A measure that cannot be stated is None with a reason, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import rankdata

from distillability.evaluation.intervals import (
    RESAMPLES,
    Floats,
    few_seeds_factor,
    resample_prompts,
    resample_seeds,
    score_replicates,
    two_way_mean,
    two_way_name,
    wilson,
)
from distillability.evaluation.measures import Measure, Scores

__all__ = ["FLAT_RULE", "FLAT_STEPS", "anchor_flat", "anchor_growth", "knob_order", "levels_between", "log_odds_shift", "predicted_shift"]

_FEWEST = 3  # points below which an order means nothing
FLAT_STEPS = 10
_FLAT_NATS, _FLAT_SHARE = 0.02, 0.1
FLAT_RULE = (
    f"means of the earlier and the later half of the last {FLAT_STEPS} steps "
    f"at most {_FLAT_NATS:g} nats or {_FLAT_SHARE:.0%} of their mean apart"
)


def _missing(reason: str, n: int, method: str) -> Measure:
    return Measure(None, None, None, n, method, reason)


# ---- Students along the knob ----------------------------------------------------------------------------------------------------


def knob_order(
    students: Mapping[float, Scores], *, rng: np.random.Generator, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Measure:
    """Spearman's rank correlation between the knob and its students' mean accuracy on test; n counts values of the knob.

    Percentile bounds of a bootstrap over prompts, common to all students, and over the seeds of each value. Noise breaks orders and never
    makes them, so the bounds lean towards 0: an order they support is there.
    """
    knobs = np.array(sorted(students))
    method = "rank correlation"
    if len(knobs) < _FEWEST:
        return _missing(f"students of {len(knobs)} values of the knob, {_FEWEST} are needed", len(knobs), method)
    arrays = [students[knob].test for knob in knobs]
    value = _spearman(knobs, np.array([[array.mean() for array in arrays]]))[0]
    if math.isnan(value):
        return _missing("all students have the same accuracy", len(knobs), method)
    widening = few_seeds_factor([(array, 1.0) for array in arrays], confidence)
    prompt_weights = resample_prompts(arrays[0].shape[1], resamples, rng)
    drawn = [
        score_replicates(
            array, prompt_weights=prompt_weights, seed_weights=resample_seeds(len(array), resamples, rng), widening=widening, rng=rng
        )
        for array in arrays
    ]
    replicates = _spearman(knobs, np.stack(drawn, axis=1))
    low, high = np.nanquantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    method = f"{two_way_name(*(len(array) for array in arrays))}, percentile"
    return Measure(float(value), min(float(low), value), max(float(high), value), len(knobs), method)


def levels_between(students: Mapping[float, Scores], ends: tuple[float, float], *, rng: np.random.Generator, **options: Any) -> Measure:
    """How many values of the knob are levels of their own: their students' interval lies between those of knob 0 and of the end of the
    same sign, and touches neither. Where 0 is not between the ends, between those of both ends.

    n counts the values that could; `chosen` lists the levels by sign. A knob with no more than three positions (down, 0, up) has none.
    """
    fixed = sorted({*ends, *([0.0] if min(ends) < 0 < max(ends) else [])})
    inner = sorted(knob for knob in students if min(ends) < knob < max(ends) and knob not in fixed)
    method = "intervals of mean accuracy that do not touch"
    absent = [f"{knob:g}" for knob in fixed if knob not in students]
    if absent or not inner:
        reason = f"no students of knob {' and '.join(absent)}" if absent else "no students of values between the ends and 0"
        return _missing(reason, len(inner), method)
    intervals = {knob: two_way_mean(students[knob].test, rng=rng, **options) for knob in (*fixed, *inner)}
    apart = []
    for knob in inner:
        neighbours = intervals[max(at for at in fixed if at < knob)], intervals[min(at for at in fixed if at > knob)]
        lower, upper = sorted(neighbours, key=lambda interval: interval.value)
        if intervals[knob].low > lower.high and intervals[knob].high < upper.low:
            apart.append(knob)
    sides = {"below 0": [knob for knob in apart if knob < 0], "above 0": [knob for knob in apart if knob > 0]}
    chosen = {side: " ".join(f"{knob:+g}" for knob in levels) for side, levels in sides.items() if levels}
    return Measure(float(len(apart)), None, None, len(inner), method, "a count of intervals has none of its own", chosen)


def anchor_growth(anchors: Sequence[tuple[float, float]]) -> Measure:
    """Spearman's rank correlation between |knob| and the anchor in nats a sequence.

    anchors: (knob, nats) of every calibration; n counts them.
    """
    method = "rank correlation"
    if len(anchors) < _FEWEST:
        return _missing(f"an anchor of {len(anchors)} calibrations, {_FEWEST} are needed", len(anchors), method)
    knobs, nats = np.array(anchors).T
    value = _spearman(np.abs(knobs), nats[None])[0]
    if math.isnan(value):
        return _missing("all anchors or all sizes of the knob are the same", len(anchors), method)
    return Measure(float(value), None, None, len(anchors), method, "no bounds: the anchors are measured without intervals")


def _spearman(first: Floats, second: Floats) -> Floats:
    """Rank correlation of [K] with each row of [R, K]; nan where one of them does not vary."""
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (rankdata(first[None], axis=-1), rankdata(second, axis=-1)))
    spread = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    found: Floats = np.divide((a * b).sum(axis=-1), spread, out=np.full(len(b), np.nan), where=spread > 0)
    return found


# ---- How far the teacher went ---------------------------------------------------------------------------------------------------


def log_odds_shift(*, after: tuple[float, float], before: tuple[float, float], n: int, confidence: float = 0.95) -> Measure:
    """By how much the log-odds of easy against hard modes moved, from (easy, hard) shares of answers; other answers take no part.

    Where a teacher has left one kind altogether there is no log-odds: the value is missing, and the bound that is known is kept.

    n: prompts. Bounds: Wilson's of each share as if each prompt counted once, joined by square-and-add on the log-odds.
    """
    method = "Wilson score of both shares, squares added on the log-odds"
    for (easy, hard), whose in ((before, "plain"), (after, "calibrated")):
        if easy + hard <= 0:
            return _missing(f"the {whose} teacher gave no answer of a known mode", n, method)
    (was, was_low, was_high), (now, now_low, now_high) = (_log_odds(shares, n, confidence) for shares in (before, after))
    if math.isinf(was):
        return _missing(f"the plain teacher gave no {'hard' if was > 0 else 'easy'} answers", n, method)
    if math.isinf(now):
        reason = f"no {'hard' if now > 0 else 'easy'} answers are left; the shift is beyond its bound"
        return Measure(None, now_low - was_high if now > 0 else None, now_high - was_low if now < 0 else None, n, method, reason)
    value = now - was
    low, high = value - math.hypot(now - now_low, was_high - was), value + math.hypot(now_high - now, was - was_low)
    return Measure(value, low, high, n, method)


def _log_odds(shares: tuple[float, float], n: int, confidence: float) -> tuple[float, float, float]:
    known = shares[0] + shares[1]
    labelled = max(1, round(n * known))
    interval = wilson(labelled * shares[0] / known, labelled, confidence=confidence)
    return _logit(interval.value), _logit(interval.low), _logit(interval.high)


def _logit(share: float) -> float:
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)


def predicted_shift(
    *,
    knob: float,
    compatibility: Mapping[str, float],
    shares: Mapping[str, float],
    easy_modes: Sequence[str],
    hard_modes: Sequence[str],
    scale: float | None,
    anchor_coefficient: float,
) -> Measure:
    """knob · (Δ / s_C) / anchor coefficient: the shift of log-odds at which C and the anchor balance, neither clipped nor gated.

    Args:
        compatibility: mean C of the plain teacher's right answers of each mode, of which Δ is easy minus hard.
        shares: of the plain teacher's answers, which weigh the modes.
        scale: s_C.
    """
    method = "knob times the modes' distance in C over s_C and the anchor coefficient"
    if not knob:
        return Measure(0.0, None, None, 0, method, "a formula has no bounds")
    if not anchor_coefficient:
        return _missing("without an anchor there is no balance", 0, method)
    if not scale:
        return _missing("C has no scale", 0, method)
    means = []
    for name, modes in (
        ("easy", [mode for mode in compatibility if mode in easy_modes]),
        ("hard", [mode for mode in compatibility if mode in hard_modes]),
    ):
        weight = sum(shares.get(mode, 0.0) for mode in modes)
        if not weight:
            return _missing(f"the plain teacher's right answers of {name} modes have no mean C", 0, method)
        means.append(sum(shares.get(mode, 0.0) * compatibility[mode] for mode in modes) / weight)
    return Measure(knob * (means[0] - means[1]) / scale / anchor_coefficient, None, None, 0, method, "a formula has no bounds")


def anchor_flat(anchors: Sequence[float | None], stopped: str | None = None) -> Measure:
    """1 where the anchor had come to rest in the last ten steps (`FLAT_RULE`), else 0; n counts the steps that were looked at.

    Args:
        anchors: nats a sequence, a step each, in order.
        stopped: why the teacher is not what the last step left behind; what was cut short has not come to rest.
    """
    if stopped:
        return Measure(0.0, None, None, len(anchors[-FLAT_STEPS:]), FLAT_RULE, stopped)
    known = [nats for nats in anchors[-FLAT_STEPS:] if nats is not None]
    if len(known) < FLAT_STEPS:
        return _missing(f"{len(known)} steps with an anchor, {FLAT_STEPS} are needed", len(known), FLAT_RULE)
    earlier, later = fmean(known[: FLAT_STEPS // 2]), fmean(known[FLAT_STEPS // 2 :])
    flat = abs(later - earlier) <= max(_FLAT_NATS, _FLAT_SHARE * abs(fmean(known)))
    return Measure(float(flat), None, None, FLAT_STEPS, FLAT_RULE, "a rule has no bounds")
