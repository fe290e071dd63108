"""A calibration that goes wrong stops, says why, and keeps a checkpoint from before."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from test_calibration import SETTINGS, _arguments, _weights

from distillability.config.recipe import AccuracyFloor, Stops
from distillability.errors import UserError
from distillability.files import read_json, read_jsonl, write_json
from distillability.inference.likelihood import Scorer
from distillability.models.load import load_model
from distillability.ops.policy_loss import clipped_token_loss
from distillability.training import lean_grpo
from distillability.training.calibrate_teacher import Calibration, calibrate_teacher
from distillability.training.calibration_trainer import CalibrationTrainer
from distillability.training.reward import CompositeReward
from distillability.types import Grade, Prompt
from processes import run_in_processes
from tiny import Parity


def _run(tiny: dict[str, Path], folder: Path, task: Parity | None = None, **changes: Any) -> dict[str, Any]:
    arguments = _arguments(tiny, folder, 1.0, SETTINGS.model_copy(update={"max_steps": 5} | changes))
    return calibrate_teacher(Calibration(**arguments | ({"task": task} if task else {})))


def _checkpoint(folder: Path, step: int) -> torch.Tensor:
    model = load_model(folder / "checkpoints" / f"checkpoint-{step}").model
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Broken(Parity):
    """Grades like its parent until the third step, and then does not."""

    def __init__(self, how: Any):
        self.calls, self.how = 0, how

    def grade(self, prompt: Prompt, text: str) -> Grade:
        self.calls += 1
        return super().grade(prompt, text) if self.calls <= 20 else self.how()


def _raise() -> Grade:
    raise ZeroDivisionError("one over nothing")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (_raise, "raised ZeroDivisionError: one over nothing"),
        (lambda: Grade(right=math.nan), "returned right = nan"),  # type: ignore[arg-type]
        (lambda: Grade(right=True, right_steps=0.5), "returned right_steps = 0.5"),  # type: ignore[arg-type]
    ],
)
def test_a_grader_that_breaks_is_named(tiny: dict[str, Path], tmp_path: Path, how: Any, said: str) -> None:
    outcome = _run(tiny, tmp_path, Broken(how))
    assert outcome["stopped"].startswith("the grader of parity, on prompt ") and said in outcome["stopped"]
    assert 1 <= outcome["kept_step"] == outcome["steps"] < 5
    assert f"in step {outcome['steps'] + 1}" in outcome["stopped"]
    assert torch.equal(_weights(tmp_path), _checkpoint(tmp_path, outcome["kept_step"]))
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == outcome["steps"]


def test_a_grader_that_breaks_at_once_is_the_users_to_mend(tiny: dict[str, Path], tmp_path: Path) -> None:
    task = Broken(_raise)
    task.calls = 99
    with pytest.raises(UserError, match="raised ZeroDivisionError") as caught:
        _run(tiny, tmp_path, task)
    assert "--resume" in caught.value.problems[0].fix
    assert not (tmp_path / "model").exists()


def test_a_proxy_that_breaks_is_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    arguments = _arguments(tiny, tmp_path, 1.0, SETTINGS)
    score, calls = Scorer.score, []

    def break_later(self: Scorer, *columns: Any) -> Any:
        if self.tokenizer is arguments["proxies"][0].tokenizer:
            calls.append(len(columns))
            if len(calls) == 2:
                with torch.no_grad():
                    next(self.model.parameters()).fill_(math.nan)
        return score(self, *columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "score", break_later)
        outcome = calibrate_teacher(Calibration(**arguments))
    assert str(tiny["proxy"]) in outcome["stopped"] and "log-likelihood" in outcome["stopped"]
    assert outcome["kept_step"] == 1


def test_a_loss_that_is_not_finite_changes_no_weight(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def break_in_step_3(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        loss = clipped_token_loss(*args, **kwargs)
        return loss * math.nan if len(calls) > breaks_after else loss

    breaks_after = 10**9
    monkeypatch.setattr(lean_grpo, "clipped_token_loss", break_in_step_3)
    _run(tiny, tmp_path / "count", max_steps=2)
    breaks_after, calls[:] = len(calls), []
    outcome = _run(tiny, tmp_path / "broken")
    assert outcome["stopped"] == "the loss is nan, in step 3"
    assert outcome["kept_step"] == 2
    assert torch.equal(_weights(tmp_path / "broken"), _checkpoint(tmp_path / "broken", 2))
    assert _weights(tmp_path / "broken").isfinite().all()


def test_a_gradient_that_is_not_finite_changes_no_weight(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CalibrationTrainer.training_step

    def break_in_step_2(self: CalibrationTrainer, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(self, model, *args, **kwargs)
        if self.state.global_step == 1:
            next(parameter for parameter in model.parameters() if parameter.grad is not None).grad.fill_(math.inf)
        return loss

    monkeypatch.setattr(CalibrationTrainer, "training_step", break_in_step_2)
    outcome = _run(tiny, tmp_path)
    assert outcome["stopped"] == "the gradient is not finite, in step 2"
    assert outcome["kept_step"] == 1 and _weights(tmp_path).isfinite().all()


def test_length_that_runs_away_stops(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pop = CalibrationTrainer.pop_step
    monkeypatch.setattr(
        CalibrationTrainer,
        "pop_step",
        lambda self: (row := pop(self)) | {"bytes": row["bytes"] * (9 if self.state.global_step == 3 else 1)},
    )
    outcome = _run(tiny, tmp_path)
    assert "times as long as in the first step, over 4, after step 2" in outcome["stopped"]
    assert (outcome["steps"], outcome["kept_step"]) == (3, 1)
    assert not (tmp_path / "checkpoints" / "checkpoint-3").exists(), "what was objected to is no checkpoint"


def test_a_stop_after_a_resume_compares_with_the_first_step_of_all(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tiny, tmp_path, max_steps=2)
    first = read_jsonl(tmp_path / "metrics.jsonl")[0]
    pop = CalibrationTrainer.pop_step
    monkeypatch.setattr(CalibrationTrainer, "pop_step", lambda self: pop(self) | {"entropy": first["entropy"] * 0.19})
    outcome = _run(tiny, tmp_path, max_steps=4, stops=Stops(entropy_share=0.2))
    assert "entropy 0.19 of the first step's" in outcome["stopped"]
    assert outcome["kept_step"] == 1


def test_the_metrics_of_a_step(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entropy, anchor and nats a byte of the first step, from the plain teacher's own scores of what it said."""
    said: list[tuple[list[str], list[str], list[bool]]] = []
    call = CompositeReward._calibration_values

    def listen(self: Any, questions: list[Prompt], texts: list[str], truncated: list[bool], ids: Any) -> Any:
        said.append(([question.text for question in questions], texts, truncated))
        return call(self, questions, texts, truncated, ids)

    monkeypatch.setattr(CompositeReward, "_calibration_values", listen)
    for name, changes in (("anchored", {}), ("free", {"anchor_coefficient": 0.0})):
        _run(tiny, tmp_path / name, max_steps=1, **changes)
    plain = load_model(tiny["teacher"])
    scores = [score for score in Scorer(plain.model, plain.tokenizer).score(*said[0]) if score is not None]
    (row,), (free,) = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("anchored", "free"))
    expected = -sum(score.logprob for score in scores) / sum(score.n_bytes for score in scores)
    assert row["nats_per_byte_under_plain"] == pytest.approx(expected, rel=1e-4)
    assert 0 < row["reference_reused"] < 1 and free["reference_reused"] == 0
    assert free["nats_per_byte_under_plain"] == pytest.approx(expected, rel=1e-4)
    assert row["anchor_nats"] == pytest.approx(0.0, abs=1e-4) and free["anchor_nats"] is None
    assert row["entropy"] > 0 and row["entropy"] == pytest.approx(free["entropy"], rel=1e-5)
    assert row["all_right_groups"] + row["all_wrong_groups"] + row["mixed_groups"] == pytest.approx(1)
    assert 0 <= row["repeated"] <= 1 and 0 <= row["truncated"] <= 1


class BrokenElsewhere(Broken):
    """A grader that breaks in the second process alone."""

    def grade(self, prompt: Prompt, text: str) -> Grade:
        return super().grade(prompt, text) if os.environ.get("RANK") == "1" else Parity.grade(self, prompt, text)


def _outcome_of_one_process(tiny: dict[str, Path], folder: Path) -> None:
    """A calibration with an accuracy floor, whose grader breaks in one process; leaves what this one was told."""
    floor = AccuracyFloor(accuracy=0.2, eval_steps=1)
    task = BrokenElsewhere(_raise)
    task.calls = -550  # it breaks after its half of the measurements of the plain teacher and of the first step
    outcome = _run(tiny, folder, task, prompts_per_step=2, accuracy_floor=floor)
    write_json(folder / f"{os.environ['RANK']}.json", outcome | {"seconds": 0})


def test_what_stops_one_process_stops_all(tiny: dict[str, Path], tmp_path: Path) -> None:
    done = run_in_processes(_outcome_of_one_process, tiny, tmp_path / "out", processes=2, environment={"ACCELERATE_USE_CPU": "true"})
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-4000:] + done[1].stderr[-4000:]
    first, second = (read_json(tmp_path / "out" / f"{rank}.json") for rank in (0, 1))
    assert first == second
    assert "raised ZeroDivisionError" in first["stopped"]
    assert read_jsonl(tmp_path / "out" / "accuracy_floor.jsonl")[0]["n"] == 512
    assert 1 <= first["kept_step"] <= first["steps"] < 5
