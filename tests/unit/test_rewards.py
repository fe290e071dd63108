"""The advantage, C, its scale, proxy admission, and both forms of the K3 anchor."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from distillability.errors import UserError
from distillability.inference.likelihood import Likelihood
from distillability.rewards.admission import admit
from distillability.rewards.compatibility import compatibility, length_reward
from distillability.rewards.compose import Advantage, compatibility_scale, compose_advantage

NAN = float("nan")


def _group(seed: int, n_right: int, size: int = 8, missing: int = 0) -> tuple[list[bool], list[float]]:
    rng = random.Random(seed)
    right = [True] * n_right + [False] * (size - n_right)
    rng.shuffle(right)
    values = [rng.gauss(-1, 3) for _ in range(size)]
    for index in rng.sample(range(size), missing):
        values[index] = NAN
    return right, values


def _graded(seed: int, right: list[bool], threshold: float = 0.6) -> list[float]:
    """Rewards of any size on the side of the threshold where the completion belongs."""
    rng = random.Random(seed)
    return [rng.uniform(threshold, 1) if ok else rng.uniform(-1, threshold - 0.01) for ok in right]


def _compose(right: list[bool], values: list[float], rewards: list[float] | None = None, **changes: Any) -> Advantage:
    common: dict[str, Any] = {"knob": 1.0, "scale": 0.7, "clip": 2.0, "gate": "correct"}
    flags = torch.tensor([right])
    return compose_advantage(
        task_reward=flags.double() if rewards is None else torch.tensor([rewards], dtype=torch.float64),
        right=flags,
        compatibility=torch.tensor([values], dtype=torch.float64),
        **(common | changes),
    )


@pytest.mark.parametrize("n_right", range(9))
@pytest.mark.parametrize("knob", [-3.0, -1.0, -0.1, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("missing", [0, 3])
def test_fixed_scale_against_the_reference_for_every_number_of_right_ones(n_right: int, knob: float, missing: int) -> None:
    for seed in range(5):
        right, values = _group(seed, n_right, missing=missing)
        found = _compose(right, values, knob=knob).advantage[0]
        expected = reference.advantage_fixed_scale([float(ok) for ok in right], right, values, knob, 0.7, 2.0, gate=True)
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("knob", [-1.0, 2.0])
def test_ungated_against_the_reference(knob: float) -> None:
    right, values = _group(3, 4, missing=2)
    found = _compose(right, values, knob=knob, gate="none").advantage[0]
    expected = reference.advantage_fixed_scale([float(ok) for ok in right], right, values, knob, 0.7, 2.0, gate=False)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("n_right", range(9))
@pytest.mark.parametrize("knob", [-2.0, 0.3, 2.0])
def test_graded_rewards_against_the_reference(n_right: int, knob: float) -> None:
    for seed in range(5):
        right, values = _group(seed, n_right, missing=1)
        rewards = _graded(seed, right)
        found = _compose(right, values, rewards, knob=knob).advantage[0]
        expected = reference.advantage_fixed_scale(rewards, right, values, knob, 0.7, 2.0, gate=True)
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("scale", [0.7, 1000.0])
@pytest.mark.parametrize("n_right", range(9))
@pytest.mark.parametrize("missing", [0, 1, 8])
@pytest.mark.parametrize("knob", [-2.0, 1.0])
def test_the_papers_form_against_the_reference(scale: float, n_right: int, missing: int, knob: float) -> None:
    right, values = _group(4, n_right, missing=missing)
    rewards = [float(ok) for ok in right]
    found = _compose(right, values, form="z_sum", gate="none", scale=scale, knob=knob).advantage[0]
    expected = reference.advantage_z_sum(rewards, [True] * 8, values, knob, scale)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def test_the_papers_form_of_rewards_as_small_as_nats_a_byte() -> None:
    values = [0.001 * value for value in _group(4, 8)[1]]
    expected = reference.advantage_z_sum([1.0] * 8, [True] * 8, values, 1.0, 0.002)
    found = _compose([True] * 8, values, form="z_sum", scale=0.002).advantage[0]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def test_the_gate_serves_the_papers_form_too() -> None:
    right, values = _group(8, 5)
    tamed, wild = _compose(right, values, form="z_sum", knob=9.0), _compose(right, values, form="z_sum", gate="none", knob=9.0)
    flags = torch.tensor(right)
    assert tamed.advantage[0][flags].min() > tamed.advantage[0][~flags].max()
    assert wild.advantage[0][flags].min() < wild.advantage[0][~flags].max()
    assert (tamed.calibration[0][~flags] == 0).all()


@given(seed=st.integers(0, 10**6), n_right=st.integers(1, 7), knob=st.floats(-50, 50))
@settings(max_examples=200, deadline=None)
def test_the_gate_never_lets_a_wrong_completion_pass_a_right_one(seed: int, n_right: int, knob: float) -> None:
    right, values = _group(seed, n_right)
    advantage = _compose(right, values, knob=knob).advantage[0]
    flags = torch.tensor(right)
    z = torch.tensor(reference.z_scores([float(ok) for ok in right]), dtype=torch.float64)
    gap = z[flags].min() - z[~flags].max()
    assert advantage[flags].min() >= advantage[~flags].max() + 0.1 * gap - 1e-9


@pytest.mark.parametrize("n_right", range(9))
def test_the_gate_shrinks_no_more_than_it_must(n_right: int) -> None:
    right, values = _group(11, n_right)
    found = _compose(right, values, knob=20.0)
    flags = torch.tensor(right)
    z = torch.tensor(reference.z_scores([float(ok) for ok in right]), dtype=torch.float64)
    if n_right in (0, 8):
        assert found.metrics["gated_groups"] == 0
        return
    lowest, highest, gap = found.advantage[0][flags].min(), found.advantage[0][~flags].max(), z[flags].min() - z[~flags].max()
    if n_right == 1:  # centred on itself: nothing to shrink
        assert found.metrics["gated_groups"] == 0
    else:
        assert found.metrics["gated_groups"] == 1
        assert float(lowest) == pytest.approx(float(highest + 0.1 * gap), abs=1e-9)


@pytest.mark.parametrize("knob", [-1.0, 1.0])
def test_where_the_rewards_themselves_invert_the_order_c_is_silent(knob: float) -> None:
    found = _compose([True, True, False, False], [-1.0, -4.0, -2.0, -3.0], rewards=[0.9, 0.2, 0.5, 0.1], knob=knob)
    assert (found.calibration == 0).all()
    assert found.metrics["gated_groups"] == 1


def test_the_sign_of_the_knob_flips_the_calibration_part() -> None:
    right, values = _group(5, 8)
    assert torch.equal(_compose(right, values, knob=1.0).calibration, -_compose(right, values, knob=-1.0).calibration)
    assert _compose(right, values, knob=1.0).calibration.abs().sum() > 0
    ungated = {knob: _compose(*_group(5, 3, missing=2), knob=knob, gate="none").calibration for knob in (0.4, -0.4)}
    assert torch.equal(ungated[0.4], -ungated[-0.4])


def test_knob_0_is_the_group_z_score() -> None:
    right, values = _group(6, 3)
    expected = torch.tensor([reference.z_scores([float(ok) for ok in right])], dtype=torch.float64)
    found = _compose(right, values, knob=0.0)
    assert torch.allclose(found.advantage, expected)
    rewards = torch.tensor([right]).double()
    assert torch.equal(found.advantage, (rewards - rewards.mean()) / (rewards.std() + 1e-4))
    assert found.metrics["compatibility_share"] == 0
    assert torch.equal(_compose(right, values, knob=0.0, scale=0.0).advantage, found.advantage)


def test_the_dose_is_linear_until_the_gate_and_a_floor_multiplier_divides_it() -> None:
    right, values = _group(7, 8)
    one, three = _compose(right, values, knob=0.1).calibration, _compose(right, values, knob=0.3).calibration
    assert torch.allclose(3 * one, three)
    assert torch.allclose(_compose(right, values, knob=0.1, floor_multiplier=1.0).calibration, one / 2)


def test_the_clip_bounds_what_one_completion_can_earn() -> None:
    part = _compose([True] * 8, [0.0] * 7 + [-1e6], knob=-1.0).calibration[0]
    # The seven sit a little above the mean, at +2 after the clip as the last sits at -2; centred again on (7 · 2 - 2) / 8 = 1.5.
    assert part.tolist() == pytest.approx([-0.5] * 7 + [3.5])
    assert _compose([True] * 8, [0.0] * 7 + [-1e6], knob=-1.0, clip=None).calibration.abs().max() > 1e5


@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_after_the_second_centring_the_bound_is_2_clip_n_minus_1_over_n(clip: float) -> None:
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        right = (torch.rand(9, generator=generator) < 0.7).tolist()
        values = (torch.randn(9, generator=generator) ** 5).tolist()
        part, n = _compose(right, values, clip=clip, gate="none").calibration.abs().max().item(), 9
        assert part <= 2 * clip * (n - 1) / n + 1e-9
    reached = _compose([True] * 9, [0.0] * 8 + [-1e6], clip=clip).calibration.abs().max().item()
    assert reached == pytest.approx(2 * clip * 8 / 9)


def test_what_is_missing_changes_nothing_for_the_others() -> None:
    with_one = _compose([True] * 5, [1.0, 2.0, NAN, 0.5, -1.0]).calibration[0]
    without = _compose([True] * 4, [1.0, 2.0, 0.5, -1.0]).calibration[0]
    assert torch.allclose(with_one[[0, 1, 3, 4]], without)
    assert with_one[2] == 0


def test_identical_texts_count_as_often_as_drawn() -> None:
    part = _compose([True] * 4, [0.0, 0.0, 0.0, 0.4], scale=1.0).calibration[0]
    assert part.tolist() == pytest.approx([-0.1, -0.1, -0.1, 0.3])


def test_the_share_that_comes_from_c() -> None:
    right, values = _group(12, 4)
    found = _compose(right, values, knob=0.2)
    ours, task = found.calibration.abs().sum(), (found.advantage - found.calibration).abs().sum()
    assert found.metrics["compatibility_share"] == pytest.approx(float(ours / (ours + task)))
    assert _compose([True] * 4, [1.0] * 4).metrics["compatibility_share"] is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scale": 0.0}, "scale"),
        ({"scale": NAN}, "scale"),
        ({"clip": 0.0}, "clip"),
        ({"knob": NAN}, "knob"),
        ({"floor_multiplier": -1.0}, "floor_multiplier"),
        ({"rewards": [1.0, NAN]}, "task_reward"),
        ({"rewards": [1.0, 0.0, 0.0]}, "shapes"),
        ({"values": [-math.inf, 0.0]}, "compatibility"),
    ],
)
def test_what_would_come_out_as_nan_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        _compose([True, False], **({"values": [0.0, 1.0]} | changes))


def test_a_group_of_one_and_several_problems_at_once() -> None:
    with pytest.raises(UserError) as raised:
        _compose([True], [0.0], scale=-1.0)
    assert [problem.where for problem in raised.value.problems] == ["num_generations", "scale"]


def test_groups_of_one_kind_are_counted() -> None:
    flags = torch.tensor([[True] * 4, [False] * 4, [True, False] * 2])
    found = compose_advantage(
        task_reward=flags.double(), right=flags, compatibility=torch.zeros(3, 4, dtype=torch.float64), knob=1.0, scale=1.0
    )
    assert found.metrics["all_right_groups"] == pytest.approx(1 / 3)
    assert found.metrics["all_wrong_groups"] == pytest.approx(1 / 3)
    assert found.metrics["mixed_groups"] == pytest.approx(1 / 3)
    assert found.calibration.abs().sum() == 0


def test_all_missing_is_no_calibration_and_no_nan() -> None:
    found = _compose([True] * 4 + [False] * 4, [NAN] * 8)
    assert found.advantage.isfinite().all()
    assert found.calibration.abs().sum() == 0


def test_scale_is_the_pooled_within_group_deviation() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0, NAN], [10.0, 10.0, 10.0, 50.0]], dtype=torch.float64)
    right = torch.tensor([[True, True, False, True], [True, True, True, False]])
    assert compatibility_scale(values, right) == pytest.approx(math.sqrt(2.0 / 3))
    assert compatibility_scale(torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool)) == 0.0
    assert compatibility_scale(values, torch.zeros(2, 4, dtype=torch.bool)) is None
    assert compatibility_scale(values[:, 2:], right[:, 2:]) is None


def test_compatibility_under_each_normaliser() -> None:
    proxy, teacher = Likelihood(-6.0, 3, 8, 4), Likelihood(-2.0, 2, 8, 4)
    for normaliser, expected in (("none", -4.0), ("bytes", -0.5), ("characters", -1.0), ("tokens", -1.0)):
        assert compatibility([proxy], [teacher], normaliser).tolist() == [expected]  # type: ignore[arg-type]
    assert compatibility([None, proxy], [teacher, None], "bytes").isnan().all()


def test_likelihoods_of_different_texts_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different texts"):
        compatibility([Likelihood(-6.0, 3, 8, 4)], [Likelihood(-2.0, 3, 9, 4)], "none")


def test_length_reward_counts_bytes_and_leaves_truncated_out() -> None:
    assert length_reward(["ab", "é", "abc", ""], [False, False, True, False]).tolist()[:2] == [2.0, 2.0]
    assert length_reward(["abc", ""], [True, False]).isnan().all()


def _scores(values: list[float]) -> list[Likelihood | None]:
    return [Likelihood(value, 10, 10, 10) for value in values]


def _admission(easy: float, hard: float, wrong: float, n_wrong: int = 80, labels: bool = True):  # type: ignore[no-untyped-def]
    """64 groups of 8: half easy, half hard, and some wrong ones, each with a little noise."""
    rng = random.Random(0)
    values, right, modes = [], [], []
    for index in range(512):
        ok = index >= n_wrong
        centre = (easy if index % 2 else hard) if ok else wrong
        values.append(centre + rng.gauss(0, 0.05))
        right.append(ok)
        modes.append(bool(index % 2) if labels else None)
    return admit(proxy=_scores(values), reference=_scores([0.0] * 512), right=right, group_size=8, easy=modes)


def test_a_proxy_that_tells_modes_apart_is_admitted() -> None:
    admission = _admission(easy=-1, hard=-4, wrong=-20)
    assert admission.passed
    assert [check.passed for check in admission.checks] == [True, True, True]


def test_right_against_wrong_alone_does_not_admit() -> None:
    admission = _admission(easy=-1, hard=-1, wrong=-20)
    assert not admission.passed
    assert admission.checks[0].passed
    assert "smaller" in admission.advice


def test_a_broken_proxy_is_refused_however_opinionated() -> None:
    assert not _admission(easy=-1, hard=-4, wrong=-2).passed


def test_the_aucs_are_shares_of_pairs() -> None:
    admission = _admission(easy=-1, hard=-1.05, wrong=-1.1)
    rng = random.Random(0)
    drawn = [(-1.1 if i < 80 else -1 if i % 2 else -1.05) + rng.gauss(0, 0.05) for i in range(512)]
    easy, hard = ([drawn[i] for i in range(80, 512) if i % 2 == odd] for odd in (1, 0))
    assert admission.checks[0].value == pytest.approx(reference.auc(drawn[80:], drawn[:80]))
    assert admission.checks[2].value == pytest.approx(reference.auc(easy, hard))


def test_a_spread_within_three_standard_errors_does_not_count() -> None:
    """One odd text among ten prompts: over 0.3 nats, and no more than chance."""
    values = [-1.0, -1.0] * 9 + [-1.0, -6.0]
    admission = admit(
        proxy=_scores(values),
        reference=_scores([0.0] * 20),
        right=[True] * 20,
        group_size=2,
        easy=[None] * 20,
        planted_wrong=_scores([-30.0] * 60),
    )
    spread = admission.checks[1]
    assert spread.value is not None
    assert spread.value == pytest.approx(math.sqrt(12.5 / 10))
    assert spread.passed is False
    assert not admission.passed


def test_a_handful_of_one_mode_is_no_measure() -> None:
    proxy = _scores([-1.0, -2.0] * 5)
    admission = admit(proxy=proxy, reference=proxy, right=[True] * 10, group_size=2, easy=[True, False] * 5)
    assert admission.checks[2].value is None
    assert "5 right texts of easy modes" in admission.checks[2].note


def test_spread_admits_without_mode_labels() -> None:
    admission = _admission(easy=-1, hard=-4, wrong=-20, labels=False)
    assert admission.passed
    assert admission.checks[2].value is None


def test_what_could_not_be_measured_is_not_passed() -> None:
    admission = _admission(easy=-1, hard=-4, wrong=-20, n_wrong=10)
    assert not admission.passed
    assert admission.checks[0].value is None
    assert admission.checks[0].passed is None
    assert "could not be measured" in admission.summary
    assert "not measured is not passed" in admission.advice
    planted = admit(
        proxy=_scores([-1.0, -4.0] * 32),
        reference=_scores([0.0] * 64),
        right=[True] * 64,
        group_size=8,
        easy=[True, False] * 32,
        planted_wrong=_scores([-30.0] * 60),
    )
    assert planted.passed
    assert "planted" in planted.checks[0].note


# The anchor: K3 at one position, by enumeration


def _policies() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)


def _gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


@pytest.mark.parametrize("corrected", [False, True])
def test_both_k3_gradients(corrected: bool) -> None:
    """As a loss on sampled tokens K3 has the gradient of KL(π₀‖π); corrected by the importance ratio, that of KL(π‖π₀)."""
    logits, reference_logprobs = _policies()
    logprobs = logits.log_softmax(0)
    drawn = logprobs.detach().exp()  # the expectation over tokens sampled from the policy
    difference = reference_logprobs - logprobs
    k3 = difference.exp() - difference - 1
    expected_value = [reference.k3(a, b) for a, b in zip(logprobs.tolist(), reference_logprobs.tolist(), strict=True)]
    assert torch.allclose(k3, torch.tensor(expected_value, dtype=torch.float64))
    ratio = (logprobs - logprobs.detach()).exp() if corrected else torch.ones(5, dtype=torch.float64)
    found = _gradient((drawn * ratio * k3).sum(), logits)
    p, q = reference_logprobs, logits.log_softmax(0)
    divergence = (q.exp() * (q - p)).sum() if corrected else (p.exp() * (p - q)).sum()
    assert torch.allclose(found, _gradient(divergence, logits))
