"""The accuracy floor: how much of C it leaves, what it keeps, and that a resumed calibration goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_calibration import SETTINGS, _arguments, _weights

from distillability.config.recipe import AccuracyFloor, Calibrate
from distillability.errors import UserError
from distillability.evaluation.intervals import wilson
from distillability.files import read_jsonl, write_jsonl
from distillability.models.load import load_model
from distillability.training import calibrate_teacher as module
from distillability.training.calibrate_teacher import Calibration, calibrate_teacher
from distillability.training.checkpoints import MetricsFile
from distillability.training.floor import Floor, held_out_accuracy, next_multiplier
from distillability.training.reward import CompositeReward
from distillability.training.stops import Watched, accuracy_under_floor
from distillability.types import Grade, Prompt
from tiny import Parity

FLOOR = AccuracyFloor(accuracy=0.3, margin=0.1, eval_steps=1)


def _run(tiny: dict[str, Path], folder: Path, floor: AccuracyFloor = FLOOR, task: Parity | None = None, **changes: Any) -> dict[str, Any]:
    settings = SETTINGS.model_copy(update={"max_steps": 6, "accuracy_floor": floor} | changes)
    arguments = _arguments(tiny, folder, 1.0, settings) | {"prompts": Parity().prompts("calibrate", 4 * settings.max_steps)}
    return calibrate_teacher(Calibration(**arguments | ({"task": task} if task else {})))


def _measured(monkeypatch: pytest.MonkeyPatch, shares: Sequence[float]) -> None:
    """Measurements that say, after step n, that this share of 1,000 prompts is right."""

    def measuring(*_: Any, **__: Any) -> Callable[[int], list[float]]:
        return lambda step: [1.0] * round(1000 * shares[step]) + [0.0] * (1000 - round(1000 * shares[step]))

    monkeypatch.setattr(module, "held_out_accuracy", measuring)


# The rule


def test_the_multiplier_against_its_definition() -> None:
    expected, silent, low_values = 0.0, False, [0.99, 0.93, 0.91, 0.87, 0.915, 0.925, 0.96, 0.99]
    found = (0.0, False)
    seen = []
    for low in low_values:
        found = next_multiplier(*found, low=low, floor=0.92, margin=0.02)
        expected = max(0.0, expected + (0.92 - low) / 0.02)
        silent = low < 0.90 or (silent and low < 0.92)
        assert found == (pytest.approx(expected), silent)
        seen.append(found)
    assert [on for _, on in seen] == [False, False, False, True, True, False, False, False]
    assert seen[2][0] == pytest.approx(0.5), "grows while under the floor"
    assert seen[-1][0] == 0.0 and seen[4][0] > seen[5][0] > seen[6][0], "decays above"


def test_measurements_use_the_one_sided_lower_bound(tmp_path: Path) -> None:
    floor = Floor(FLOOR, lambda step: [1.0] * 480 + [0.0] * 32, MetricsFile(tmp_path / "floor.jsonl"))
    floor.measure(0)
    (row,) = read_jsonl(tmp_path / "floor.jsonl")
    expected = wilson(480, 512, confidence=0.9, side="lower")
    assert (row["accuracy"], row["n"]) == (480 / 512, 512)
    assert row["low"] == pytest.approx(expected.low, abs=1e-12)
    assert floor.holds(0) and not floor.holds(1)


@pytest.mark.parametrize("prompts", [600, 100])
def test_held_out_accuracy_answers_validate_prompts(tiny: dict[str, Path], prompts: int) -> None:
    """With fewer prompts than completions, several samples of each; the same step gives the same answers, another step others."""

    class Few(Parity):
        def prompts(self, split: Any, n: int) -> list[Prompt]:
            assert split == "validate"
            return super().prompts(split, min(n, prompts))

    loaded, task = load_model(tiny["teacher"]), Few()
    settings = Calibrate(require="none")
    common: dict[str, Any] = {"completions": 512, "max_completion_length": 12, "seed": 3, "autocast_dtype": None}
    measure = held_out_accuracy(lambda: loaded, task, settings, **common)
    state = torch.get_rng_state()
    first, again, other = measure(1), measure(1), measure(2)
    assert torch.equal(torch.get_rng_state(), state), "measuring draws nothing from training's generator"
    assert first == again != other
    assert len(first) == min(512, prompts)
    assert set(first) <= ({0.0, 1.0} if prompts == 600 else {count / 6 for count in range(7)})


# In a calibration


def test_a_floor_above_the_plain_teacher_is_the_users_to_mend(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _run(tiny, tmp_path, AccuracyFloor(accuracy=0.99))
    (problem,) = caught.value.problems
    assert problem.where == "calibrate.accuracy_floor.accuracy = 0.99"
    assert "the plain teacher's own sampled accuracy is" in problem.what and "lower the floor to at most" in problem.fix
    assert "completions" not in problem.fix
    assert not (tmp_path / "model").exists()


def test_a_floor_within_the_error_of_the_plain_teacher_asks_for_more(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, [0.95] * 9)
    with pytest.raises(UserError, match=r"or raise calibrate\.accuracy_floor\.completions"):
        _run(tiny, tmp_path, AccuracyFloor(accuracy=0.945))


def test_the_checkpoint_kept_is_the_last_above_the_floor(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is not among the newest, and training went on to its end."""
    _measured(monkeypatch, [0.5, 0.5, 0.29, 0.5, *[0.29, 0.25] * 3])
    outcome = _run(tiny, tmp_path, AccuracyFloor(accuracy=0.3, margin=0.1, eval_steps=1, patience=9), max_steps=9, save_steps=100)
    assert (outcome["steps"], outcome["kept_step"], outcome["stopped"]) == (9, 3, None)
    assert torch.equal(_weights(tmp_path), _checkpoint(tmp_path, 3))
    steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert steps == [3, 6, 7, 8, 9]


def _checkpoint(folder: Path, step: int) -> torch.Tensor:
    model = load_model(folder / "checkpoints" / f"checkpoint-{step}").model
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_under_the_floor_too_often_stops_and_keeps_the_plain_teacher(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, [0.5] + [0.29] * 9)
    outcome = _run(tiny, tmp_path, AccuracyFloor(accuracy=0.3, eval_steps=1, patience=2))
    assert (outcome["steps"], outcome["kept_step"]) == (2, 0)
    assert "held-out accuracy is under its floor of 0.3 (lower bounds 0.272, 0.272) after step 2" in outcome["stopped"]
    plain = torch.cat([parameter.detach().flatten() for parameter in load_model(tiny["teacher"]).model.parameters()])
    assert torch.equal(_weights(tmp_path), plain)


def test_c_is_weighed_by_the_multiplier_and_silent_far_under_the_floor(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, [0.5, 0.31, 0.1, 0.31, 0.5, 0.5, 0.5])
    _run(tiny, tmp_path, AccuracyFloor(accuracy=0.3, margin=0.1, eval_steps=1, patience=9))
    rows, floor = read_jsonl(tmp_path / "metrics.jsonl"), read_jsonl(tmp_path / "accuracy_floor.jsonl")
    assert [row["step"] for row in floor] == list(range(7))
    assert [row["silent"] for row in floor] == [False, False, True, True, False, False, False]
    for before, row in zip(floor, rows, strict=False):
        expected = 0.0 if before["silent"] else 1.0 / (1 + before["multiplier"])
        assert row["knob"] == pytest.approx(expected)
        assert (row["compatibility_variance_share"] in (0.0, None)) == before["silent"]


def test_the_rule_counts_measurements_in_a_row() -> None:
    settings = Calibrate(accuracy_floor=AccuracyFloor(accuracy=0.9, patience=2))
    rows = [{"step": step, "low": low} for step, low in ((0, 0.95), (10, 0.89), (20, 0.91), (30, 0.89))]
    watched = {"row": {"step": 30}, "first": {}, "settings": settings}
    assert accuracy_under_floor(Watched(**watched, measurements=rows)) is None
    stop = accuracy_under_floor(Watched(**watched, measurements=[*rows, {"step": 40, "low": 0.5}]))
    assert stop is not None and stop.bad_from == 30 and "0.890, 0.500" in stop.reason
    assert accuracy_under_floor(Watched(**watched | {"settings": Calibrate()}, measurements=rows)) is None


def test_a_killed_calibration_goes_on_with_its_multiplier(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured for real, from a λ that is above 0, so that forgetting it would show."""
    floor = AccuracyFloor(accuracy=0.3, margin=0.5, eval_steps=1, patience=9)
    for name in ("whole", "killed"):
        row = {"step": 0, "accuracy": 0.4, "low": 0.37, "n": 512, "multiplier": 2.5, "silent": False}
        write_jsonl(tmp_path / name / "accuracy_floor.jsonl", [row])
    _run(tiny, tmp_path / "whole", floor, max_steps=4)
    before = read_jsonl(tmp_path / "whole" / "accuracy_floor.jsonl")

    class Killed(BaseException):
        pass

    call = CompositeReward.__call__

    def kill_in_step_4(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["trainer_state"].global_step == 3:
            raise Killed
        return call(self, *args, **kwargs)

    monkeypatch.setattr(CompositeReward, "__call__", kill_in_step_4)
    with pytest.raises(Killed):
        _run(tiny, tmp_path / "killed", floor, max_steps=4)
    monkeypatch.undo()
    with (tmp_path / "killed" / "accuracy_floor.jsonl").open("a") as handle:  # measured, and killed before its checkpoint was whole
        handle.write('{"step": 4, "accuracy": 0.0, "low": 0.0, "n": 512, "multiplier": 99.0, "silent": true}\n{"step": 5, "acc')
    _run(tiny, tmp_path / "killed", floor, max_steps=4)
    assert read_jsonl(tmp_path / "killed" / "accuracy_floor.jsonl") == before
    assert torch.equal(_weights(tmp_path / "killed"), _weights(tmp_path / "whole"))
    assert all(row["multiplier"] > 0 for row in before), "the test is of nothing else"


def test_a_grader_that_breaks_while_accuracy_is_measured_is_named(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Validates(Parity):
        def grade(self, prompt: Prompt, text: str) -> Grade:
            if prompt in validate:
                raise OSError("no judge")
            return super().grade(prompt, text)

    validate = Parity().prompts("validate", 512)
    with pytest.raises(UserError, match="raised OSError: no judge, when held-out accuracy was measured after step 0"):
        _run(tiny, tmp_path, task=Validates())
