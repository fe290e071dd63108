"""Measures: closed forms, selection on validate, missing with a reason, properties, coverage of the ratio."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distillability.errors import UserError
from distillability.evaluation.measures import (
    Measure,
    Scores,
    attack_yield,
    floor,
    gap_closed,
    headline_up,
    kept,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def students(share: float, *, seeds: int = 3, n: int = 400, shift: int = 0) -> np.ndarray:
    """[S, N] with exactly this share right in every seed, the right prompts rotated by `shift` from seed to seed."""
    row = np.zeros(n)
    row[: round(share * n)] = 1
    return np.stack([np.roll(row, shift * seed) for seed in range(seeds)])


def scores(test: float, validate: float | None = None, **shape: int) -> Scores:
    return Scores(students(test, **shape), students(test if validate is None else validate, **shape))


BEFORE = floor(chance=0.1, students={"none": scores(0.05), "gold_answers": scores(0.2)})


# Values


def test_gap_closed_is_the_ratio_of_differences() -> None:
    gap = gap_closed(distillable=students(0.8), plain=students(0.5), teacher=students(0.9, seeds=1), rng=rng())
    assert gap.difference.value == pytest.approx(0.3)
    assert gap.ratio.value == pytest.approx(0.75)
    assert gap.difference.low > 0
    assert 0.5 < gap.ratio.low < 0.75 < gap.ratio.high < 1


def test_no_gap_to_close_is_missing() -> None:
    gap = gap_closed(distillable=students(0.95), plain=students(0.85), teacher=students(0.94, seeds=1), rng=rng())
    assert gap.difference.value == pytest.approx(0.10)
    assert gap.ratio.value is None
    assert "0.090" in gap.ratio.reason


def test_gap_that_may_be_nothing_has_no_bounds() -> None:
    plain = np.stack([np.zeros(100), np.ones(100), students(0.5, seeds=1, n=100)[0]])
    gap = gap_closed(distillable=students(0.8, n=100), plain=plain, teacher=students(0.9, seeds=1, n=100), rng=rng())
    assert gap.ratio.value == pytest.approx(0.75)
    assert gap.ratio.low is None
    assert "no bounds" in gap.ratio.reason


def test_kept_is_measured_above_the_best_floor() -> None:
    measure = kept(undistillable=scores(0.4), plain=scores(0.8), floor=BEFORE, rng=rng())
    assert measure.value == pytest.approx((0.4 - 0.2) / (0.8 - 0.2))
    assert measure.chosen["floor"] == "gold_answers"
    assert measure.low < measure.value < measure.high


@pytest.mark.parametrize(
    ("chance", "before", "gold", "name", "value"),
    [(0.3, 0.1, 0.2, "chance", 0.3), (0.0, 0.1, 0.05, "none", 0.1), (0.0, 0.1, 0.2, "gold_answers", 0.2)],
)
def test_floor_is_named(chance: float, before: float, gold: float, name: str, value: float) -> None:
    base = floor(chance=chance, students={"none": scores(before), "gold_answers": scores(gold)})
    measure = kept(undistillable=scores(0.5), plain=scores(0.9), floor=base, rng=rng())
    assert measure.chosen["floor"] == name
    assert measure.value == pytest.approx((0.5 - value) / (0.9 - value))


def test_kept_under_the_floor_is_negative_not_clipped() -> None:
    assert kept(undistillable=scores(0.1), plain=scores(0.8), floor=BEFORE, rng=rng()).value == pytest.approx(-1 / 6)


def test_an_identical_student_keeps_all_but_is_not_certain() -> None:
    measure = kept(undistillable=scores(0.8), plain=scores(0.8), floor=BEFORE, rng=rng())
    assert measure.value == 1
    assert measure.low < 1 < measure.high


def test_a_guard_at_zero_keeps_a_width() -> None:
    measure = kept(undistillable=scores(0.0), plain=scores(1.0), floor={"chance": 0.0}, rng=rng())
    assert measure.value == 0
    assert 0 < measure.high < 0.05


# Selection


def test_attackers_are_selected_on_validate() -> None:
    """The attacker that shines on test only is not the one that counts."""
    guard = {"lucky on test": scores(0.7, validate=0.3), "best on validate": scores(0.5, validate=0.6)}
    plain = {"seqkd": scores(0.8, validate=0.8), "forward_kl": scores(0.9, validate=0.7)}
    measure = attack_yield(guard=guard, plain=plain, floor=BEFORE, rng=rng())
    assert measure.chosen == {"guard": "best on validate", "plain": "seqkd", "floor": "gold_answers"}
    assert measure.value == pytest.approx((0.5 - 0.2) / (0.8 - 0.2))


def test_selection_is_part_of_the_bootstrap() -> None:
    """Two attackers that validate cannot tell apart and test can: the choice itself must upcast the interval."""
    other_prompts = np.roll(students(0.49), 200, axis=1)
    apart = {"a": scores(0.7, validate=0.5), "b": Scores(students(0.3), other_prompts)}
    alone = {"a": apart["a"]}
    both, one = (
        attack_yield(guard=guard, plain={"seqkd": scores(0.9, shift=3)}, floor={"chance": 0.0}, rng=rng()) for guard in (apart, alone)
    )
    assert both.value == one.value
    assert both.low < 0.4 < 0.6 < one.low


def test_one_set_of_students_in_two_places_is_resampled_once() -> None:
    """The same attack on both sides is a ratio of 1 without error from its seeds; a copy counts as other students."""
    noisy = rng(1).random((3, 200)) < np.array([[0.5], [0.7], [0.9]])
    same = Scores(noisy.astype(float))
    twin = Scores(noisy.astype(float))
    shared = attack_yield(guard={"a": same}, plain={"a": same}, floor={"chance": 0.0}, rng=rng(2), confidence=0.8)
    copied = attack_yield(guard={"a": twin}, plain={"a": same}, floor={"chance": 0.0}, rng=rng(2), confidence=0.8)
    assert (shared.low, shared.high) == (1, 1)
    assert copied.low < 0.95
    assert copied.high > 1.05


def test_headline_up_is_against_the_best_on_validate() -> None:
    alternatives = {"plain_best_of_8": scores(0.8, validate=0.85), "plain_prefilled": scores(0.95, validate=0.7)}
    measure = headline_up(distillable=scores(0.9), alternatives=alternatives, rng=rng())
    assert measure.chosen == {"alternative": "plain_best_of_8"}
    assert measure.value == pytest.approx(0.1)
    assert measure.low < 0.1 < measure.high


# Missing and refused


def test_yield_over_too_small_a_denominator_is_missing_with_its_numbers() -> None:
    measure = kept(undistillable=scores(0.2), plain=scores(0.32), floor=BEFORE, rng=rng())
    assert (measure.value, measure.low, measure.high) == (None, None, None)
    assert "0.120" in measure.reason
    assert "gold_answers" in measure.reason


def test_denominator_counts_chance_too() -> None:
    assert kept(undistillable=scores(0.2), plain=scores(0.55), floor={"chance": 0.5}, rng=rng()).value is None
    assert kept(undistillable=scores(0.2), plain=scores(0.75), floor={"chance": 0.5}, rng=rng()).value is not None


def test_three_seeds_that_disagree_leave_yield_missing() -> None:
    plain = Scores(np.stack([np.zeros(400), np.ones(400), np.ones(400)]))
    measure = kept(undistillable=Scores(students(0.1)), plain=plain, floor={"chance": 0.0}, rng=rng())
    assert measure.value is None


def test_a_missing_value_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Measure(None, None, None, 10, "anything")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: floor(chance=0.0, students={"gold_steps": scores(0.9)}), "gold_steps"),
        (lambda: floor(chance=1.0, students={}), "chance"),
        (lambda: headline_up(distillable=scores(0.9), alternatives={"plain_prefilled_oracle": scores(0.9)}, rng=rng()), "oracle"),
        (lambda: headline_up(distillable=scores(0.9), alternatives={}, rng=rng()), "nothing to choose"),
        (lambda: headline_up(distillable=scores(0.9), alternatives={"a": scores(0.1), "b": Scores(students(0.2))}, rng=rng()), "validate"),
        (lambda: kept(undistillable=scores(0.5, n=10), plain=scores(0.9), floor=BEFORE, rng=rng()), "same prompts"),
        (lambda: Scores(np.ones((3, 5)), np.ones((2, 5))), "same students"),
        (lambda: Scores(np.array([[0.5, np.nan]])), "missing"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def test_a_yield_takes_the_better_attack() -> None:
    guard = {"undistillable_prefilled": scores(0.7), "undistillable_few_shot": scores(0.4)}
    measure = attack_yield(guard=guard, plain={"plain": scores(0.8)}, floor=BEFORE, rng=rng())
    assert measure.chosen["guard"] == "undistillable_prefilled"
    assert measure.value == pytest.approx(0.5 / 0.6)


# Properties and coverage

SHARES = st.integers(0, 4).map(lambda right: right / 4)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float64, (11, 12), elements=SHARES), st.floats(0, 0.6), st.integers(0, 3))
def test_order_and_reasons(rows: np.ndarray, chance: float, seed: int) -> None:
    """Whatever comes in: bounds in order, or None with a reason."""
    arm = [Scores(rows[2 * k : 2 * k + 2, :8], rows[2 * k : 2 * k + 2, 8:]) for k in range(5)]
    base = floor(chance=chance, students={"none": arm[0]})
    options = {"rng": rng(seed), "resamples": 100}
    made = [
        attack_yield(guard={"a": arm[1], "b": arm[2]}, plain={"a": arm[3], "b": arm[4]}, floor=base, **options),
        headline_up(distillable=arm[1], alternatives={"a": arm[2], "b": arm[3]}, **options),
    ]
    gap = gap_closed(distillable=arm[1].test, plain=arm[2].test, teacher=rows[10:, :8], **options)
    for measure in [*made, gap.difference, gap.ratio]:
        if None in (measure.value, measure.low, measure.high):
            assert measure.reason
        else:
            assert np.isfinite([measure.low, measure.high]).all()
            assert measure.low <= measure.value <= measure.high
    assert -1 <= gap.difference.low <= gap.difference.high <= 1


def test_coverage_of_kept() -> None:
    generator, held, told = rng(3), 0, 0
    for _ in range(300):
        prompts = generator.random(200)

        def arm(share: float, prompts: np.ndarray = prompts) -> Scores:
            skills = share + 0.02 * generator.standard_normal((3, 1))
            return Scores((0.5 * prompts + 0.5 * generator.random((3, 200)) < skills).astype(float))

        measure = kept(undistillable=arm(0.35), plain=arm(0.65), floor={"chance": 0.0}, rng=generator, resamples=300)
        if measure.value is None:
            continue
        told += 1
        # P((U + V) / 2 < s) is 2 s² below one half and 1 − 2 (1 − s)² above, and a normal skill adds ± 2 · 0.02²
        truth = (2 * 0.35**2 + 2 * 0.02**2) / (1 - 2 * 0.35**2 - 2 * 0.02**2)
        held += measure.low <= truth <= measure.high
    assert told == 300
    assert 0.92 <= held / told <= 0.995
