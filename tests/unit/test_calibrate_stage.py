"""What is measured on the plain teacher before it is calibrated, and what is said where that cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillability.config.recipe import Recipe
from distillability.files import read_json
from distillability.rewards.right import counts_as_right
from distillability.stages import calibrate as module
from distillability.stages.context import TaskContext
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
