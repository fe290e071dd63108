"""Calibration is GRPO plus one term: nothing else changes, and nothing depends on how the work is cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import get_scheduler
from trl import GRPOTrainer

from distillability.config.recipe import Calibrate, Lora, SchedulerName, Teacher
from distillability.errors import UserError
from distillability.files import read_json, read_jsonl, write_json
from distillability.inference.likelihood import Scorer
from distillability.models.chat import prompt_ids
from distillability.models.load import LoadedModel, load_model
from distillability.training import calibrate_teacher as module
from distillability.training.calibrate_teacher import Calibration, calibrate_teacher
from distillability.training.reward import CompositeReward
from processes import run_in_processes
from tiny import Parity

TASK = Parity()
SETTINGS = Calibrate(
    prompts_per_step=4, num_generations=4, max_steps=3, save_steps=1, learning_rate=1e-2, anchor_budget=None, require="none"
)


def _arguments(tiny: dict[str, Path], folder: Path, knob: float, settings: Calibrate = SETTINGS) -> dict[str, Any]:
    return {
        "loaded": load_model(tiny["teacher"]),
        "proxies": [load_model(tiny["proxy"])],
        "task": TASK,
        "prompts": TASK.prompts("calibrate", 12),
        "teacher": Teacher(knob=knob),
        "settings": settings,
        "scale": 1.0,
        "max_completion_length": 40,
        "seed": 7,
        "autocast_dtype": None,
        "folder": folder,
    }


def _calibrate(tiny: dict[str, Path], folder: Path, knob: float, settings: Calibrate = SETTINGS, **changes: Any) -> dict[str, Any]:
    return calibrate_teacher(Calibration(**_arguments(tiny, folder, knob, settings.model_copy(update=changes))))


def _weights(folder: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in load_model(folder / "model").model.parameters()])


def _stock(tiny: dict[str, Path], folder: Path) -> GRPOTrainer:
    """TRL's own trainer with the task reward, group-normalised, and nothing of ours but the numbers in the config and the rollouts."""
    loaded = load_model(tiny["teacher"])
    args = module._grpo_config(SETTINGS, loaded, 40, 7, None, folder)
    args.scale_rewards, args.logging_steps = "group", 1

    def reward(completions: Any, completion_ids: Any, **_: Any) -> list[float]:
        ended = [ids[-1] == loaded.tokenizer.eos_token_id for ids in completion_ids]
        return [float(end and len(completion[0]["content"]) % 2 == 0) for completion, end in zip(completions, ended, strict=True)]

    rows = [{"prompt": [{"role": "user", "content": prompt.text}], "prompt_id": prompt.id} for prompt in TASK.prompts("calibrate", 12)]
    return GRPOTrainer(
        model=loaded.model,
        reward_funcs=[reward],
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        rollout_func=module._rollouts(loaded, 40, None),
    )


def test_knob_0_is_stock_grpo_with_the_anchor(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories: list[list[dict[str, Any]]] = []
    save_model = module.CalibrationTrainer.save_model

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-" not in str(args[0]):
            histories.append(self.state.log_history)
        save_model(self, *args, **kwargs)

    config = module._grpo_config
    monkeypatch.setattr(module, "_grpo_config", lambda *args: _log_every_step(config(*args)))
    monkeypatch.setattr(module.CalibrationTrainer, "save_model", remember)
    _calibrate(tiny, tmp_path / "ours", knob=0.0)
    monkeypatch.undo()
    stock = _stock(tiny, tmp_path / "stock")
    stock.train()
    ours, theirs = ([row for row in history if "loss" in row] for history in (histories[0], stock.state.log_history))
    assert len(ours) == len(theirs) == 3
    for a, b in zip(ours, theirs, strict=True):
        assert a["reward_std"] > 0
        assert a["completions/mean_length"] == b["completions/mean_length"], "not the same rollouts"
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-4)
    stock_weights = torch.cat([parameter.detach().flatten() for parameter in stock.model.parameters()])
    assert torch.allclose(_weights(tmp_path / "ours"), stock_weights, atol=1e-5)


def _log_every_step(args: Any) -> Any:
    args.logging_steps = 1
    return args


def test_the_knob_changes_what_is_learnt(tiny: dict[str, Path], tmp_path: Path) -> None:
    for name, knob in (("up", 1.0), ("down", -1.0), ("zero", 0.0)):
        _calibrate(tiny, tmp_path / name, knob=knob)
    up, down, zero = (_weights(tmp_path / name) for name in ("up", "down", "zero"))
    assert not torch.allclose(up, zero)
    assert not torch.allclose(up, down)


def test_micro_batches_do_not_change_the_result(tiny: dict[str, Path], tmp_path: Path) -> None:
    for size in (4, 8, 16):
        _calibrate(tiny, tmp_path / str(size), knob=-1.0, per_device_train_batch_size=size)
    whole = _weights(tmp_path / "16")
    for size in (4, 8):
        assert torch.allclose(_weights(tmp_path / str(size)), whole, atol=2e-5)
        ours, theirs = read_jsonl(tmp_path / str(size) / "metrics.jsonl"), read_jsonl(tmp_path / "16" / "metrics.jsonl")
        for a, b in zip(ours, theirs, strict=True):
            assert a["anchor_nats"] == pytest.approx(b["anchor_nats"], abs=1e-4)
            assert a["task_reward"] == b["task_reward"]


@pytest.mark.parametrize("lora", [None, Lora(r=2, save="adapter")])
def test_activations_that_are_computed_again_are_the_same(tiny: dict[str, Path], tmp_path: Path, lora: Lora | None) -> None:
    for again in (False, True):
        _calibrate(tiny, tmp_path / str(again), knob=1.0, activation_checkpointing=again, lora=lora)
    kept, again_rows = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("False", "True"))
    assert [row | {"seconds": 0} for row in again_rows] == [row | {"seconds": 0} for row in kept]
    weights = (load_file(next((tmp_path / name / "model").glob("*.safetensors"))) for name in ("False", "True"))
    for ours, theirs in zip(*(found.values() for found in weights), strict=True):
        assert torch.equal(ours, theirs)


def _same_words(loaded: LoadedModel, *_: Any) -> Callable[[list[Any], GRPOTrainer], dict[str, Any]]:
    """Completions that depend on the prompt and the place in its group alone: each process draws from a generator of its own."""
    tokenizer = loaded.tokenizer

    def roll_out(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        rows = []
        for row, (message,) in enumerate(prompts):
            rng = random.Random(f"{message['content']} {row % trainer.num_generations}")
            rows.append([*tokenizer.convert_tokens_to_ids(rng.choices("0123456789+;", k=rng.randint(2, 12))), tokenizer.eos_token_id])
        return {
            "prompt_ids": [prompt_ids(tokenizer, message["content"]) for (message,) in prompts],
            "completion_ids": rows,
            "logprobs": None,
        }

    return roll_out


def _with_same_words(tiny: dict[str, Path], folder: Path, prompts_per_step: int, patch: Callable[[Any, str, Any], None]) -> None:
    """One process of a calibration in which all processes together would say the same; the first leaves losses and gradient norms."""
    config, save_model = module._grpo_config, module.CalibrationTrainer.save_model

    def remember(trainer: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-" not in str(args[0]) and trainer.accelerator.is_main_process:
            write_json(folder / "history.json", [row for row in trainer.state.log_history if "loss" in row])
        save_model(trainer, *args, **kwargs)

    patch(module, "_grpo_config", lambda *args: _log_every_step(config(*args)))
    patch(module.CalibrationTrainer, "save_model", remember)
    patch(module, "_rollouts", _same_words)
    _calibrate(tiny, folder, knob=-1.0, prompts_per_step=prompts_per_step)


def test_two_processes_are_one(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole groups in each process, as many in all: the same losses, gradients, anchors and weights."""
    _with_same_words(tiny, tmp_path / "one", 4, monkeypatch.setattr)
    done = run_in_processes(_with_same_words, tiny, tmp_path / "two", 2, setattr, processes=2, environment={"ACCELERATE_USE_CPU": "true"})
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-4000:] + done[1].stderr[-4000:]
    one, two = (read_json(tmp_path / name / "history.json") for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(two, one, strict=True):
        assert b["reward_std"] > 0
        assert a["reward_std"] == pytest.approx(b["reward_std"], rel=1e-4)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-6)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-3)
    anchors = ([line["anchor_nats"] for line in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("two", "one"))
    assert next(anchors) == pytest.approx(next(anchors), abs=1e-3)
    assert torch.allclose(_weights(tmp_path / "two"), _weights(tmp_path / "one"), atol=1e-4)
    ones, twos = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for a, b in zip(twos, ones, strict=True):
        assert a["n"] == b["n"] == 16, "the metrics describe all processes' completions"
        assert a["compatibility"] == pytest.approx(b["compatibility"], rel=1e-4)


@pytest.mark.parametrize("max_steps", [3, 5])
def test_a_killed_calibration_resumes_to_the_same_weights(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_steps: int
) -> None:
    """Also where there are prompts for three steps only, and it went on to a fourth."""
    _calibrate(tiny, tmp_path / "whole", knob=1.0, max_steps=max_steps)

    class Killed(BaseException):
        pass

    def kill_in_last_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["trainer_state"].global_step == max_steps - 1:
            raise Killed
        return call(self, *args, **kwargs)

    call = CompositeReward.__call__
    monkeypatch.setattr(CompositeReward, "__call__", kill_in_last_step)
    with pytest.raises(Killed):
        _calibrate(tiny, tmp_path / "killed", knob=1.0, max_steps=max_steps)
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "model").exists()
    _calibrate(tiny, tmp_path / "killed", knob=1.0, max_steps=max_steps)
    assert torch.equal(_weights(tmp_path / "killed"), _weights(tmp_path / "whole"))
    whole, resumed = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    for a, b in zip(whole, resumed, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_the_anchor_budget_stops_and_says_so(tiny: dict[str, Path], tmp_path: Path) -> None:
    outcome = _calibrate(tiny, tmp_path, knob=1.0, anchor_budget=1e-6, learning_rate=5e-2)
    assert outcome["kept_step"] == 0
    original = load_model(tiny["teacher"]).model
    assert torch.equal(_weights(tmp_path), torch.cat([parameter.detach().flatten() for parameter in original.parameters()]))
    assert outcome["steps"] < 3
    assert "over its budget" in outcome["stopped"]


def test_a_policy_reference_is_the_original_at_first_and_not_later(tiny: dict[str, Path], tmp_path: Path) -> None:
    for reference in ("original", "policy"):
        _calibrate(tiny, tmp_path / reference, knob=1.0, reference=reference)
    original, policy = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("original", "policy"))
    assert policy[0]["compatibility"] == pytest.approx(original[0]["compatibility"], abs=1e-5)
    assert policy[0]["reference_reused"] == 0 and original[0]["reference_reused"] > 0
    assert abs(policy[-1]["compatibility"] - original[-1]["compatibility"]) > 1e-3
    assert not torch.allclose(_weights(tmp_path / "original"), _weights(tmp_path / "policy"))


def test_too_few_prompts_are_repeated_for_as_many_steps_as_are_asked_for_and_no_more(tiny: dict[str, Path], tmp_path: Path) -> None:
    """An epoch ends with the last step: a trainer that resumes behind it has nothing left to do."""
    arguments = _arguments(tiny, tmp_path, 1.0, SETTINGS.model_copy(update={"max_steps": 5}))
    trainer = module.calibration_trainer(Calibration(**arguments | {"prompts": arguments["prompts"][:3]}))
    assert len(trainer.train_dataset) == 5 * SETTINGS.prompts_per_step


def test_the_policy_reference_scores_the_weights_of_the_moment(tiny: dict[str, Path], tmp_path: Path) -> None:
    trainer = module.calibration_trainer(
        Calibration(**_arguments(tiny, tmp_path, 1.0, SETTINGS.model_copy(update={"reference": "policy"})))
    )
    scorer = trainer.reward.reference
    assert scorer is not None
    (before,) = scorer.score(["1"], ["2"])
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05)
    (after,) = scorer.score(["1"], ["2"])
    (expected,) = Scorer(trainer.model, trainer.processing_class).score(["1"], ["2"])
    assert before is not None and after is not None and expected is not None
    assert after.logprob == expected.logprob != before.logprob


def test_several_proxies_steer_together(tiny: dict[str, Path], tmp_path: Path) -> None:
    proxies = [load_model(tiny[name]) for name in ("proxy", "student")]
    for how in ("mean", "worst"):
        settings = SETTINGS.model_copy(update={"proxy_aggregate": how})
        calibrate_teacher(Calibration(**_arguments(tiny, tmp_path / how, 1.0, settings) | {"proxies": proxies}))
    _calibrate(tiny, tmp_path / "one", knob=1.0)
    mean, worst, one = (_weights(tmp_path / name) for name in ("mean", "worst", "one"))
    assert not torch.allclose(mean, worst) and not torch.allclose(mean, one)
    first = read_jsonl(tmp_path / "mean" / "metrics.jsonl")[0]
    assert first["compatibility"] == pytest.approx(sum(first["compatibility_by_proxy"]) / 2)


def test_a_linear_knob_grows_over_its_share_of_the_steps(tiny: dict[str, Path], tmp_path: Path) -> None:
    _calibrate(tiny, tmp_path, knob=-1.0, knob_schedule="linear", knob_warmup=1.0)
    assert [line["knob"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == pytest.approx([-1 / 3, -2 / 3, -1.0])


def test_the_teacher_as_its_own_proxy_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny["teacher"])
    arguments = _arguments(tiny, tmp_path / "out", 1.0) | {"proxies": [load_model(tiny["proxy"]), load_model(tmp_path / "link")]}
    with pytest.raises(UserError, match="the proxy is the teacher"):
        calibrate_teacher(Calibration(**arguments))


@pytest.mark.parametrize("name", get_args(SchedulerName))
def test_every_learning_rate_schedule_is_transformers_own(tiny: dict[str, Path], tmp_path: Path, name: Any) -> None:
    arguments = _arguments(tiny, tmp_path, 1.0, SETTINGS.model_copy(update={"lr_scheduler_type": name, "max_steps": 12}))
    trainer = module.calibration_trainer(Calibration(**arguments))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=12)
    trainer.create_optimizer()
    ours = trainer.create_scheduler(12, trainer.optimizer)
    for _ in range(12):
        assert ours.get_last_lr()[0] == scheduler.get_last_lr()[0]
        trainer.optimizer.step(), optimizer.step(), ours.step(), scheduler.step()
