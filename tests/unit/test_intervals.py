"""Intervals: published values, closed forms, edges, properties, and coverage."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distillability.errors import UserError
from distillability.evaluation.intervals import (
    Interval,
    paired_difference,
    prompt_mean,
    resample_prompts,
    resample_seeds,
    score_replicates,
    two_way_difference,
    two_way_mean,
    wilson,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def from_counts(gains: int, losses: int, n: int, **options: Any) -> Interval:
    """The paired difference of yes/no values on `n` prompts: `gains` that only the first got right, `losses` that only the second did."""
    both = n - gains - losses
    return paired_difference(
        np.repeat([1.0, 0.0, 1.0], [gains, losses, both]), np.repeat([0.0, 1.0, 1.0], [gains, losses, both]), **options
    )


def yes_no(*, ones: int, n: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [ones, n - ones])


# Published values


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe (1998), two-sided intervals for the single proportion, method 3."""
    assert bounds(wilson(successes, n, small_counts=False)) == pytest.approx((low, high), abs=5e-5)


def test_small_counts_take_the_poisson_limit() -> None:
    """One success: P(X >= 1) = 0.05 at mu = -log(0.95); and failures mirror successes."""
    assert wilson(1, 29).low == pytest.approx(-np.log(0.95) / 29)
    assert wilson(28, 29).high == pytest.approx(1 + np.log(0.95) / 29)
    assert bounds(wilson(4, 29)) == bounds(wilson(4, 29, small_counts=False))


def test_tango_is_the_published_interval() -> None:
    """Airway hyper-responsiveness before and after treatment: 1 gain, 7 losses among 21 (Fagerland, Lydersen, Laake 2014)."""
    assert bounds(from_counts(1, 7, 21)) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_tango_bounds_are_where_its_score_statistic_equals_the_quantile() -> None:
    """At a bound, (gains - losses - n d)^2 = z^2 n (p12 + p21 - d^2), with p12, p21 the likeliest under d, found here by a grid."""
    gains, losses, n = 9, 3, 60
    for bound in bounds(from_counts(gains, losses, n)):
        loss = np.linspace(max(-bound, 0) + 1e-9, (1 - bound) / 2 - 1e-9, 400_001)
        likelihood = gains * np.log(loss + bound) + losses * np.log(loss) + (n - gains - losses) * np.log(1 - 2 * loss - bound)
        p21 = loss[likelihood.argmax()]
        statistic = (gains - losses - n * bound) / np.sqrt(n * (2 * p21 + bound - bound**2))
        assert abs(statistic) == pytest.approx(1.959964, abs=1e-3)


# Closed forms


def test_no_discordant_pair_leaves_a_closed_form() -> None:
    """Without gains or losses Tango's bounds are ± z² / (n + z²)."""
    z2 = 1.959964**2
    assert bounds(from_counts(0, 0, 50)) == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)), abs=1e-6)


def test_yes_no_values_give_the_textbook_intervals() -> None:
    first, second = rng(1).integers(0, 2, size=(2, 80)).astype(float)
    gains, losses = int(np.sum(first > second)), int(np.sum(first < second))
    assert bounds(prompt_mean(first)) == pytest.approx(bounds(wilson(int(first.sum()), 80)))
    assert bounds(paired_difference(first, second)) == pytest.approx(bounds(from_counts(gains, losses, 80)))


def test_many_prompts_agree_with_the_normal_interval() -> None:
    values = rng(2).binomial(4, rng(3).beta(2, 3, size=20_000)) / 4
    error = 1.959964 * values.std(ddof=1) / np.sqrt(values.size)
    assert bounds(prompt_mean(values)) == pytest.approx((values.mean() - error, values.mean() + error), abs=error / 50)


def test_more_alike_samples_widen_the_interval() -> None:
    independent, alike = rng(4).binomial(4, 0.5, size=400) / 4, rng(4).binomial(1, 0.5, size=400).astype(float)
    widths = [interval.high - interval.low for interval in (prompt_mean(independent), prompt_mean(alike))]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.1)


def test_pairing_pays() -> None:
    prompts = rng(5).random(500)
    first, second = (prompts < 0.7).astype(float), (prompts < 0.65).astype(float)
    interval = paired_difference(first, second)
    assert interval.low > 0
    assert interval.high - interval.low < (prompt_mean(first).high - prompt_mean(first).low) * 0.7


def test_one_sided_bound_is_the_two_sided_one_of_twice_the_tail() -> None:
    lower = from_counts(9, 3, 60, side="lower")
    assert lower.low == pytest.approx(from_counts(9, 3, 60, confidence=0.9).low)
    assert lower.high == 1.0
    assert wilson(7, 60, side="upper").high == pytest.approx(wilson(7, 60, confidence=0.9).high)
    assert wilson(7, 60, side="upper").low == 0.0
    assert "one-sided" in lower.method


def test_one_seed_is_the_interval_over_prompts() -> None:
    first, second = (rng(6).random((2, 1, 300)) < 0.6).astype(float)
    pooled, paired = two_way_mean(first, rng=rng(), resamples=8000), two_way_difference(first, second, rng=rng(), resamples=8000)
    assert bounds(pooled) == pytest.approx(bounds(prompt_mean(first[0])), abs=3e-3)
    assert bounds(paired) == pytest.approx(bounds(paired_difference(first[0], second[0])), abs=3e-3)
    assert "one seed" in pooled.method


def test_seeds_that_differ_give_students_interval() -> None:
    """Every prompt alike within a seed: all that varies is three seeds, and the bound before Wilson's shape is t(2) = 4.30 errors."""
    array = np.array([[0.50], [0.52], [0.54]]).repeat(1000, axis=1)
    error = 4.302653 * 0.02 / np.sqrt(3)
    interval = two_way_mean(array, rng=rng(), resamples=8000)
    assert bounds(interval) == pytest.approx((0.52 - error, 0.52 + error), abs=3e-3)


def test_common_prompts_cancel_in_a_two_way_difference() -> None:
    hard = rng(7).random(1000) < 0.5
    arm = np.where(hard, 0.0, 1.0)[None].repeat(3, axis=0)
    interval = two_way_difference(arm, arm, rng=rng())
    assert interval.value == 0
    assert 0 < interval.high < 0.01
    assert two_way_mean(arm, rng=rng()).high - interval.value > 0.5


def test_replicates_of_a_mean_have_wilsons_quantiles() -> None:
    array = yes_no(ones=30, n=200)[None]
    replicates = score_replicates(
        array, prompt_weights=resample_prompts(200, 8000, rng(8)), seed_weights=resample_seeds(1, 8000, rng(9)), widening=1.0, rng=rng(10)
    )
    assert tuple(np.quantile(replicates, [0.025, 0.975])) == pytest.approx(bounds(wilson(30, 200)), abs=5e-3)


# Edges


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_constant_input_keeps_a_finite_width(value: float, n: int) -> None:
    column = np.full(n, value)
    made = [
        prompt_mean(column),
        paired_difference(column, column),
        two_way_mean(np.full((3, n), value), rng=rng()),
        two_way_mean(np.full((1, n), value), rng=rng()),
        two_way_difference(np.full((3, n), value), np.full((2, n), value), rng=rng()),
        paired_difference(np.ones(n), np.zeros(n)),
    ]
    for interval in made:
        assert np.isfinite([interval.low, interval.high]).all()
        assert interval.low <= interval.value <= interval.high
        assert interval.high - interval.low > 1e-3
        assert interval.n == n


@pytest.mark.parametrize(
    "call",
    [
        lambda: prompt_mean([]),
        lambda: prompt_mean([0.5, np.nan]),
        lambda: prompt_mean([0.5, 1.5]),
        lambda: prompt_mean([[0.5, 0.5]]),
        lambda: paired_difference([0.5], [0.5, 1.0]),
        lambda: two_way_difference(np.ones((2, 3)), np.ones((2, 4)), rng=rng()),
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, confidence=95),
    ],
)
def test_bad_input_is_refused(call) -> None:
    with pytest.raises(UserError):
        call()


def test_the_same_generator_gives_the_same_interval() -> None:
    array = (rng(11).random((3, 50)) < 0.5).astype(float)
    assert two_way_mean(array, rng=rng(1)) == two_way_mean(array, rng=rng(1))
    assert two_way_mean(array, rng=rng(1)) != two_way_mean(array, rng=rng(2))


def test_two_thousand_resamples_are_fast() -> None:
    first, second = (rng(12).random((2, 5, 1000)) < 0.5).astype(float)
    seconds = []  # of processor time: other work on the machine is no fault of ours
    for _ in range(3):
        start = time.process_time()
        two_way_difference(first, second, rng=rng(), resamples=2000)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3


# Properties

SHARES = st.integers(0, 4).map(lambda right: right / 4)


def matrices(rows: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (rows, n), elements=SHARES))


@given(matrices(2))
def test_order_and_range(pair: np.ndarray) -> None:
    mean, difference = prompt_mean(pair[0]), paired_difference(pair[0], pair[1])
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert difference.high > difference.low
    assert mean.high > mean.low


@given(matrices(2))
def test_mirror_images_have_mirrored_intervals(pair: np.ndarray) -> None:
    mean, mirrored = prompt_mean(pair[0]), prompt_mean(1 - pair[0])
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - mean.high, 1 - mean.low))
    there, back = paired_difference(pair[0], pair[1]), paired_difference(pair[1], pair[0])
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


@settings(deadline=None, max_examples=50)
@given(matrices(5), st.integers(0, 3))
def test_two_way_order_and_range(rows: np.ndarray, seed: int) -> None:
    mean = two_way_mean(rows, rng=rng(seed), resamples=100)
    difference = two_way_difference(rows[:3], rows[3:], rng=rng(seed), resamples=100)
    assert 0 <= mean.low <= mean.value <= mean.high <= 1
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert difference.high > difference.low


@given(st.integers(1, 60), st.data())
def test_more_confidence_is_wider(n: int, data: st.DataObject) -> None:
    gains = data.draw(st.integers(0, n))
    losses = data.draw(st.integers(0, n - gains))
    narrow, wide = (from_counts(gains, losses, n, confidence=level) for level in (0.8, 0.99))
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


# Coverage (the long version is benchmarks/coverage.py)


@pytest.mark.parametrize(("p", "alike"), [(0.5, 0.0), (0.9, 0.5), (0.03, 0.9)])
def test_clustered_coverage(p: float, alike: float) -> None:
    generator, size, held = rng(13), 1 / max(alike, 1e-9) - 1, 0
    for _ in range(400):
        interval = prompt_mean(generator.binomial(4, generator.beta(p * size, (1 - p) * size, size=60)) / 4)
        held += interval.low <= p <= interval.high
    assert 0.915 <= held / 400 <= 0.99


def test_two_way_coverage_with_three_seeds() -> None:
    """Three students whose skill differs: an interval over prompts alone would hold the truth about half the time."""
    generator, held, prompts_only = rng(14), 0, 0
    for _ in range(400):
        skills = 0.6 + 0.05 * generator.standard_normal((3, 1))
        array = (generator.random((3, 300)) < skills).astype(float)
        interval, naive = two_way_mean(array, rng=generator, resamples=200), prompt_mean(array.mean(axis=0))
        held += interval.low <= 0.6 <= interval.high
        prompts_only += naive.low <= 0.6 <= naive.high
    assert held / 400 >= 0.915
    assert prompts_only / 400 < 0.85
