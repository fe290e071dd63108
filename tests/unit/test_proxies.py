"""Several proxies: one C of theirs all, each admitted by itself; and the schedule of the knob."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from test_calibrate_stage import _context

import reference
from distillability.config.recipe import Calibrate, Teacher
from distillability.errors import UserError
from distillability.files import read_json, write_json
from distillability.inference.likelihood import Likelihood, Scorer
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.load import load_model
from distillability.rewards.aggregate import aggregate
from distillability.rewards.compose import compose_advantage, scheduled_knob
from distillability.runs.context import TaskContext
from distillability.runs.paths import admission_file
from distillability.stages import calibrate as stage
from distillability.training.reward import CompositeReward
from tiny import Parity, tiny_model


def _values(seed: int, n_proxies: int, size: int, missing: int) -> list[list[float]]:
    rng = random.Random(seed)
    values = [[rng.gauss(-proxy, 1 + proxy) for _ in range(size)] for proxy in range(n_proxies)]
    for _ in range(missing):
        values[rng.randrange(n_proxies)][rng.randrange(size)] = math.nan
    return values


@pytest.mark.parametrize("how", ["mean", "worst"])
@pytest.mark.parametrize("knob", [-1.0, 0.0, 0.5])
@pytest.mark.parametrize("missing", [0, 4, 30])
def test_aggregates_against_the_reference(how: Any, knob: float, missing: int) -> None:
    for seed in range(10):
        values = _values(seed, 3, 8, missing)
        counted = [random.Random(seed + row).random() < 0.7 for row in range(8)]
        found = aggregate(torch.tensor(values, dtype=torch.float64)[:, None], torch.tensor([counted]), how, knob)[0]
        expected = torch.tensor(reference.aggregate_proxies(values, counted, how, knob), dtype=torch.float64)
        assert torch.allclose(found, expected, atol=1e-12, equal_nan=True)


def test_one_proxy_is_left_as_it_is() -> None:
    values = torch.tensor([[_values(0, 1, 8, 2)[0]]])
    assert torch.equal(aggregate(values, torch.ones(1, 8, dtype=torch.bool), "worst", -1.0).nan_to_num(), values[0].nan_to_num())


@pytest.mark.parametrize("how", ["mean", "worst"])
def test_what_a_proxy_likes_overall_steers_nothing(how: Any) -> None:
    """As with one proxy alone: adding a constant to its C changes no advantage."""
    values, counted = torch.tensor([_values(1, 2, 8, 0)]).transpose(0, 1).double(), torch.ones(1, 8, dtype=torch.bool)
    shifted = values + torch.tensor([0.0, -50.0], dtype=torch.float64)[:, None, None]
    one, other = (
        compose_advantage(
            task_reward=torch.ones(1, 8), right=counted, compatibility=aggregate(c, counted, how, 1.0), knob=1.0, scale=1.0
        ).advantage
        for c in (values, shifted)
    )
    assert torch.allclose(one, other, atol=1e-9)


def test_the_worst_case_is_the_least_gain_in_the_knobs_direction() -> None:
    values, counted = torch.tensor([[[-1.0, 1.0]], [[-3.0, 3.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert aggregate(values, counted, "worst", 1.0).tolist() == [[-3.0, 1.0]]
    assert aggregate(values, counted, "worst", -1.0).tolist() == [[-1.0, 3.0]]
    assert aggregate(values, counted, "mean", 1.0).tolist() == [[-2.0, 2.0]]


def _reward(proxies: list[Path], teacher: Path) -> CompositeReward:
    loaded = load_model(teacher)
    prompts = Parity().prompts("calibrate", 1)
    return CompositeReward(
        task=Parity(),
        settings=Calibrate(prompts_per_step=1, num_generations=4),
        teacher=Teacher(knob=1.0),
        scale=1.0,
        policy_tokenizer=loaded.tokenizer,
        proxies=[Scorer(proxy.model, proxy.tokenizer) for proxy in map(load_model, proxies)],
        reference=Scorer(loaded.model, loaded.tokenizer),
        prompts={prompt.id: prompt for prompt in prompts},
    )


def test_a_text_that_one_proxy_cannot_encode_is_missing_for_it_alone(tiny: dict[str, Path], tmp_path: Path) -> None:
    digits = tiny_model(tmp_path / "digits", character_tokenizer("0123456789"), seed=4)
    reward = _reward([tiny["proxy"], digits], tiny["teacher"])
    prompt = next(iter(reward.prompts.values()))
    values, _, _ = reward._calibration_values([prompt] * 4, ["12", "1+2", "", "77"], [False, False, False, True], [[0]] * 4)
    assert values.isnan().tolist() == [[False, False, True, True], [False, True, True, True]]
    together = aggregate(values[:, None], torch.ones(1, 4, dtype=torch.bool), "mean", 1.0)[0]
    assert together.isnan().tolist() == [False, False, True, True]


def _two_proxies(tiny: dict[str, Path], folder: Path, **settings: Any) -> TaskContext:
    context = _context(tiny, folder, **settings)
    config = context.config.model_copy(update={"proxies": [str(tiny["student"])]})
    context.__dict__["config"] = config
    return context


def _admissions(passed: dict[str, bool]) -> Any:
    checked = iter(passed.values())
    real = stage.admit

    def admit(**columns: Any) -> Any:
        found = real(**columns)
        return type(found)(next(checked), found.checks, "a summary", "an advice")

    return admit


@pytest.mark.parametrize("second", [True, False])
def test_each_proxy_must_pass_by_itself(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool) -> None:
    monkeypatch.setattr(stage, "admit", _admissions({"first": True, "second": second}))
    context, proof = _two_proxies(tiny, tmp_path, require="none"), admission_file(tmp_path, "maths")
    stage._admission(context, proof)
    record = read_json(proof)
    assert record["passed"] is second
    assert len(record["checks"]) == 6
    assert record["checks"][3]["name"].startswith(str(tiny["student"]))
    if second:
        assert [job.title for job in stage.calibration_jobs(context)] == ["maths: distillable #0", "maths: undistillable #0"]
        return
    with pytest.raises(UserError) as caught:
        stage.calibration_jobs(context)
    (problem,) = caught.value.problems
    assert str(tiny["student"]) in problem.fix and str(tiny["proxy"]) not in problem.fix


def test_the_worst_case_has_a_scale_for_each_direction(tiny: dict[str, Path], tmp_path: Path) -> None:
    context, proof = _two_proxies(tiny, tmp_path, require="none", gate="none", proxy_aggregate="worst"), tmp_path / "admission.json"
    stage._admission(context, proof)
    scale = read_json(proof)["scale"]
    assert sorted(scale) == ["compatibility", "compatibility_down", "length"]
    assert scale["compatibility"] != scale["compatibility_down"]
    assert stage._scale_name(context, Teacher(knob=-1.0)) == "compatibility_down"
    assert stage._scale_name(context, Teacher(knob=1.0)) == "compatibility"
    assert stage._scale_name(context, Teacher(knob=-1.0, reward="length")) == "length"


def test_a_direction_without_a_scale_is_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    context = _two_proxies(tiny, tmp_path, proxy_aggregate="worst")
    scale = {"compatibility": 0.1, "compatibility_down": None, "length": 1.0}
    write_json(admission_file(tmp_path, "maths"), {"passed": True, "scale": scale})
    with pytest.raises(UserError) as caught:
        stage.calibration_jobs(context)
    (problem,) = caught.value.problems
    assert problem.where == "calibrate.teachers (undistillable), task maths"


def test_likelihoods_of_different_texts_are_refused() -> None:
    from distillability.rewards.compatibility import compatibility

    with pytest.raises(ValueError, match="different texts"):
        compatibility([Likelihood(-1.0, 1, 4, 4)], [Likelihood(-1.0, 1, 5, 5)], "bytes")


def test_the_knobs_schedule() -> None:
    assert [scheduled_knob(-2.0, "constant", warmup_share=0.5, step=step, max_steps=8) for step in (0, 7)] == [-2.0, -2.0]
    grown = [scheduled_knob(-2.0, "linear", warmup_share=0.5, step=step, max_steps=8) for step in range(6)]
    assert grown == [-0.5, -1.0, -1.5, -2.0, -2.0, -2.0]
    assert scheduled_knob(1.0, "linear", warmup_share=0.01, step=0, max_steps=8) == 1.0
