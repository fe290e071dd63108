"""Measures of a sweep: closed forms, what noise must not pass for, missing with a reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from distillability.evaluation.measures import Scores
from distillability.evaluation.sweep_response import anchor_flat, anchor_growth, knob_order, levels_between, log_odds_shift, predicted_shift

KNOBS = (-1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def students(shares: dict[float, float], *, n: int = 500, seeds: int = 3, seed: int = 0) -> dict[float, Scores]:
    generator = rng(seed)
    return {knob: Scores((generator.random((seeds, n)) < share).astype(float)) for knob, share in shares.items()}


# Students along the knob


def test_order_is_spearman_s_and_lies_within_its_bounds() -> None:
    found = students(dict(zip(KNOBS, (0.1, 0.12, 0.4, 0.35, 0.8, 0.7, 0.9), strict=True)))
    measure = knob_order(found, rng=rng())
    means = [found[knob].test.mean() for knob in KNOBS]
    assert measure.value == pytest.approx(spearmanr(KNOBS, means).statistic)
    assert measure.low <= measure.value <= measure.high
    assert measure.n == 7


def test_order_shares_ranks_where_accuracies_are_equal() -> None:
    rows = {knob: Scores(np.repeat([[1.0, 0.0]], 2, axis=0) if knob < 0.5 else np.ones((2, 2))) for knob in KNOBS}
    expected = spearmanr(KNOBS, [rows[knob].test.mean() for knob in KNOBS]).statistic
    assert knob_order(rows, rng=rng()).value == pytest.approx(expected)


def test_an_order_that_is_there_is_supported_and_noise_is_not() -> None:
    steep = knob_order(students({knob: 0.5 + 0.4 * math.tanh(3 * knob) for knob in KNOBS}), rng=rng())
    assert steep.low > 0.8
    supported = [knob_order(students(dict.fromkeys(KNOBS, 0.5), seed=seed), rng=rng(seed), resamples=400) for seed in range(60)]
    assert sum(measure.low > 0 or measure.high < 0 for measure in supported) <= 4


def test_too_few_knobs_and_equal_students_have_no_order() -> None:
    assert "3 are needed" in knob_order(students({0.0: 0.5, 1.0: 0.6}), rng=rng()).reason
    same = {knob: Scores(np.ones((2, 5))) for knob in KNOBS}
    assert knob_order(same, rng=rng()).reason == "all students have the same accuracy"


def test_a_switch_of_three_positions_has_no_levels() -> None:
    switch = students({-1.0: 0.1, -0.1: 0.1, -0.01: 0.5, 0.0: 0.5, 0.01: 0.5, 0.1: 0.9, 1.0: 0.9}, n=1000)
    measure = levels_between(switch, (-1.0, 1.0), rng=rng())
    assert (measure.value, measure.n, measure.low, measure.chosen) == (0.0, 4, None, {})


@pytest.mark.parametrize("flipped", [False, True])
def test_levels_lie_between_knob_0_and_the_end_of_their_sign(flipped: bool) -> None:
    shares = {-1.0: 0.1, -0.3: 0.3, -0.1: 0.7, 0.0: 0.5, 0.1: 0.7, 0.3: 0.8, 0.5: 0.3, 1.0: 0.9}  # -0.1 and 0.5 are on the wrong side
    found = {knob: 1 - share if flipped else share for knob, share in shares.items()}
    measure = levels_between(students(found, n=2000), (-1.0, 1.0), rng=rng())
    assert (measure.value, measure.n) == (3.0, 5)
    assert measure.chosen == {"below 0": "-0.3", "above 0": "+0.1 +0.3"}


def test_levels_of_one_sign_lie_between_the_ends() -> None:
    measure = levels_between(students({0.0: 0.1, 0.1: 0.5, 1.0: 0.9}, n=1000), (0.0, 1.0), rng=rng())
    assert (measure.value, measure.n, measure.chosen) == (1.0, 1, {"above 0": "+0.1"})


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ((-1.0, 0.0, 1.0), "no students of values between the ends and 0"),
        ((-1.0, -0.1, 1.0), "no students of knob 0"),
        ((-1.0, 0.0, 0.1), "no students of knob 1"),
    ],
)
def test_levels_need_both_ends_knob_0_and_something_between(knobs: tuple[float, ...], reason: str) -> None:
    measure = levels_between(students(dict.fromkeys(knobs, 0.5)), (-1.0, 1.0), rng=rng())
    assert (measure.value, measure.reason) == (None, reason)


def test_anchor_growth() -> None:
    assert anchor_growth([(-1, 1.4), (-0.1, 0.3), (0, 0.0), (0.1, 0.3), (1, 1.4)]).value == pytest.approx(1.0)
    assert anchor_growth([(0.1, 3.0), (0.2, 2.0), (-0.3, 1.0)]).value == pytest.approx(-1.0)
    assert anchor_growth([(1, 1.0), (2, 2.0)]).value is None
    assert "the same" in anchor_growth([(1, 1.0), (-1, 2.0), (1, 3.0)]).reason


# How far the teacher went


def test_the_shift_of_log_odds() -> None:
    measure = log_odds_shift(after=(0.6, 0.2), before=(0.4, 0.4), n=1000)
    assert measure.value == pytest.approx(math.log(3))
    assert measure.low < math.log(3) < measure.high
    narrow = log_odds_shift(after=(0.6, 0.2), before=(0.4, 0.4), n=100_000)
    assert narrow.high - narrow.low < (measure.high - measure.low) / 5
    assert log_odds_shift(after=(0.4, 0.4), before=(0.4, 0.4), n=1000).value == 0


@pytest.mark.parametrize(("after", "known"), [((1.0, 0.0), "low"), ((0.0, 1.0), "high")])
def test_a_mode_that_is_gone_leaves_a_bound(after: tuple[float, float], known: str) -> None:
    measure = log_odds_shift(after=after, before=(0.5, 0.5), n=1000)
    assert measure.value is None and "are left" in measure.reason
    bound = getattr(measure, known)
    assert (bound > 5) if known == "low" else (bound < -5)
    assert getattr(measure, "high" if known == "low" else "low") is None


def test_shifts_that_cannot_be_had() -> None:
    assert "no answer of a known mode" in log_odds_shift(after=(0.5, 0.5), before=(0.0, 0.0), n=10).reason
    assert "plain teacher gave no hard answers" in log_odds_shift(after=(0.5, 0.5), before=(1.0, 0.0), n=10).reason


MODES = {"easy": 0.0, "remark_easy": 0.1, "hard": -0.3}
SHARES = {"easy": 0.3, "remark_easy": 0.1, "hard": 0.6}


def predict(**changes: object) -> float | str | None:
    known = {
        "knob": 0.1,
        "compatibility": MODES,
        "shares": SHARES,
        "easy_modes": ("easy", "remark_easy"),
        "hard_modes": ("hard", "remark_hard"),
        "scale": 0.5,
    }
    measure = predicted_shift(**(known | {"anchor_coefficient": 0.05} | changes))
    return measure.reason if measure.value is None else measure.value


def test_the_predicted_shift_is_knob_times_delta_over_scale_and_anchor() -> None:
    delta = (0.3 * 0.0 + 0.1 * 0.1) / 0.4 + 0.3
    assert predict() == pytest.approx(0.1 * delta / 0.5 / 0.05)
    assert predict(knob=-1.0) == pytest.approx(-delta / 0.5 / 0.05)
    assert predict(knob=0.0, scale=None, anchor_coefficient=0.0) == 0
    assert predict(anchor_coefficient=0.0) == "without an anchor there is no balance"
    assert predict(scale=None) == "C has no scale"
    assert "hard modes have no mean C" in str(predict(compatibility={"easy": 0.0}))


def test_the_balance_is_where_gradient_of_reward_and_anchor_meet() -> None:
    """Two modes, a policy that maximises knob · C / s_C minus β KL: enumerated on a fine grid of shares."""
    easy, before = 0.6, 0.4
    share = np.linspace(1e-6, 1 - 1e-6, 2_000_001)
    kl = share * np.log(share / before) + (1 - share) * np.log((1 - share) / (1 - before))
    best = share[np.argmax(0.1 * easy / 0.5 * share - 0.05 * kl)]
    reached = math.log(best / (1 - best)) - math.log(before / (1 - before))
    modes = {"easy": 0.0, "hard": -easy}
    assert reached == pytest.approx(predict(compatibility=modes, shares={"easy": before, "hard": 1 - before}), abs=1e-4)


@pytest.mark.parametrize(
    ("anchors", "flat"),
    [
        ([0.1 * step for step in range(20)], 0.0),
        ([1.4] * 20, 1.0),
        ([9.0] * 5 + [1.4, 1.45] * 5, 1.0),  # only the last ten steps count
        ([1.0] * 5 + [1.15] * 5, 0.0),
        ([0.01] * 5 + [0.028] * 5, 1.0),  # under 0.02 nats is noise
        ([0.01] * 5 + [0.04] * 5, 0.0),
    ],
)
def test_whether_the_anchor_rests(anchors: list[float], flat: float) -> None:
    assert anchor_flat(anchors).value == flat
    assert anchor_flat(anchors, stopped="over its budget").value == 0.0


def test_too_few_steps_do_not_tell_whether_the_anchor_rests() -> None:
    assert anchor_flat([1.0] * 9).reason == "9 steps with an anchor, 10 are needed"
    assert anchor_flat([1.0] * 9 + [None]).value is None
    assert anchor_flat([None, *[1.0] * 10]).value == 1.0
