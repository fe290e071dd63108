"""What is measured on the plain teacher before it is calibrated, and what is said where that cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillability.config.recipe import Recipe, Teacher
from distillability.errors import UserError
from distillability.files import read_json, write_json
from distillability.rewards.compose import counts_as_right
from distillability.runs.context import TaskContext
from distillability.runs.paths import admission_file
from distillability.stages import calibrate as module
from distillability.stages.card import write_card
from distillability.types import Grade, Prompt
from tiny import Parity


class Fumbled(Parity):
    """Right answers, of which only those of a length divisible by 4 have right steps."""

    def grade(self, prompt: Prompt, text: str) -> Grade:
        right = super().grade(prompt, text).right
        return Grade(right=right, right_steps=right and len(text) % 4 == 0)


def _context(tiny: dict[str, Path], folder: Path, **settings: Any) -> TaskContext:
    task = {"type": "maths", "queries": 4, "steps": 1, "max_completion_length": 40} | {role: str(path) for role, path in tiny.items()}
    calibrate = {"scale_prompts": 8, "num_generations": 4} | settings
    context = TaskContext(
        Recipe.model_validate({"name": "r", "tasks": [task], "calibrate": calibrate}),
        "maths",
        folder,
        {"teacher": "float32", "student": "float32"},
    )
    context.__dict__["task"] = Fumbled()  # the cached property's own place
    return context


@pytest.mark.parametrize(
    ("grade", "with_steps", "without"),
    [
        (Grade(right=True, right_steps=True), True, True),
        (Grade(right=True, right_steps=False), False, True),
        (Grade(right=True, right_steps=None), True, True),
        (Grade(right=False, right_steps=True), False, False),
        (Grade(right=False, right_steps=None), False, False),
    ],
)
def test_what_counts_as_right(grade: Grade, with_steps: bool, without: bool) -> None:
    assert (counts_as_right(grade, "steps"), counts_as_right(grade, "none")) == (with_steps, without)


def test_the_scale_is_of_the_completions_that_training_counts_as_right(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[bool]]] = []
    measure = module.compatibility_scale
    monkeypatch.setattr(module, "compatibility_scale", lambda values, right: (seen.append(right.tolist()), measure(values, right))[1])
    scales = {}
    for require in ("steps", "none"):
        proof = tmp_path / f"{require}.json"
        module._admission(_context(tiny, tmp_path, require=require), proof)
        scales[require] = read_json(proof)["scale"]
    strict, _, lenient, _ = (sum(map(sum, rows)) for rows in seen)
    assert 0 < strict < lenient
    assert scales["steps"] != scales["none"]


@pytest.mark.parametrize("processes", [1, 3])
def test_no_prompt_comes_twice_while_there_are_fresh_ones(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Neither in another calibration nor in another process of the same step."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    context = _context(tiny, tmp_path, calibrations=2, prompts_per_step=4, max_steps=5)
    first, second = (module._prompts(context, calibration) for calibration in (0, 1))
    assert len(first) == len(second) == 20 * processes
    assert len({prompt.id for prompt in (*first, *second)}) == 40 * processes


def _jobs(tiny: dict[str, Path], folder: Path, scale: dict[str, float | None], **settings: Any) -> list[str]:
    """Titles of the calibrations that an admitted proxy with this scale leads to."""
    teachers = {"distillable": {"knob": 1}, "undistillable": {"knob": -1}, "longer": {"knob": 1, "reward": "length"}}
    context = _context(tiny, folder, teachers=teachers, **settings)
    write_json(admission_file(folder, "maths"), {"passed": True, "scale": scale})
    return [job.title for job in module.calibration_jobs(context)]


def test_with_a_scale_every_teacher_is_calibrated(tiny: dict[str, Path], tmp_path: Path) -> None:
    assert len(_jobs(tiny, tmp_path, {"compatibility": 0.07, "length": 1.5})) == 3


def test_a_reward_that_nobody_asks_for_needs_no_scale(tiny: dict[str, Path], tmp_path: Path) -> None:
    teachers = {"distillable": {"knob": 1}}
    write_json(admission_file(tmp_path, "maths"), {"passed": True, "scale": {"compatibility": 0.07, "length": None}})
    assert len(module.calibration_jobs(_context(tiny, tmp_path, teachers=teachers))) == 1


def test_a_proxy_that_fails_refuses_calibrations_and_nothing_else(tiny: dict[str, Path], tmp_path: Path) -> None:
    failed = {"passed": False, "scale": {"compatibility": 0.07, "length": None}, "summary": "AUC 0.5", "advice": "another"}
    write_json(admission_file(tmp_path, "maths"), failed)
    with pytest.raises(UserError, match="fails admission"):
        module.calibration_jobs(_context(tiny, tmp_path, teachers={"distillable": {"knob": 1}}))
    assert module.calibration_jobs(_context(tiny, tmp_path, teachers={})) == []


@pytest.mark.parametrize("require", ["steps", "none"])
def test_no_scale_says_what_where_and_how_to_mend(tiny: dict[str, Path], tmp_path: Path, require: str) -> None:
    with pytest.raises(UserError) as caught:
        _jobs(tiny, tmp_path, {"compatibility": None, "length": 0.0}, require=require)
    missing, flat = caught.value.problems
    assert missing.where == "calibrate.teachers (distillable, undistillable), task maths"
    assert f'none of 8 prompts got two answers that count as right (calibrate.require = "{require}")' in missing.what
    assert str(tiny["teacher"]) in missing.what
    assert "raise calibrate.scale_prompts or calibrate.num_generations" in missing.fix
    assert flat.where == "calibrate.teachers (longer), task maths"
    assert "have the same length within each prompt" in flat.what
    assert "leave out the teachers with this reward" in flat.fix


def test_a_task_that_plants_no_errors_swaps_answers() -> None:
    """What is right for the next prompt is wrong for this one, unless it is right for both."""

    class Lengths(Parity):
        def grade(self, prompt: Prompt, text: str) -> Grade:
            return Grade(right=str(len(text)) == prompt.answer)

    prompts = [Prompt(id=name, text=name, answer=answer) for name, answer in (("a", "1"), ("b", "2"), ("c", "2"), ("d", "3"))]
    asked = [prompt for prompt in prompts for _ in range(2)]
    texts = ["x", "xx", "yy", "y", "zz", "zz", "no", "no"]
    grades = [Lengths().grade(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
    sampled = module._Sampled(asked, texts, [False] * 8, grades, [grade.right for grade in grades], 0)
    planted = module._planted(Lengths(), sampled)
    assert [(prompt.id, text) for prompt, text in planted] == [("a", "yy"), ("d", "x")]  # b's is right for c too, and d has none


@pytest.mark.parametrize(
    ("save", "library", "said"), [("merged", "transformers", "added to"), ("adapter", "peft", "which needs the original")]
)
def test_the_card_says_what_was_trained(tiny: dict[str, Path], tmp_path: Path, save: str, library: str, said: str) -> None:
    context = _context(tiny, tmp_path, lora={"r": 3, "save": save}, accuracy_floor={"accuracy": 0.9})
    outcome = {"kept_step": 4, "stopped": "the grader raised X:\n| <b>no</b> |"}
    write_card(context, "distillable", Teacher(knob=1.0), outcome, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"library_name: {library}" in card and f"| weights | an adapter of rank 3, {said}" in card
    assert "| steps | 4 (the grader raised X: \\| &lt;b>no&lt;/b> \\|) |" in card
    assert "| accuracy floor | 0.9, sampled, held out |" in card
