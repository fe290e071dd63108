"""What the jobs of one task share: the same untrained student, whoever asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillability.config.recipe import Recipe
from distillability.models.load import LoadedModel, load_model
from distillability.runs import context as module
from distillability.runs.context import TaskContext


def _context(tiny: dict[str, Path], folder: Path, student_init: str, **changes: Any) -> TaskContext:
    task = {"type": "maths", "queries": 4, "steps": 1, "max_completion_length": 40} | {role: str(path) for role, path in tiny.items()}
    recipe = Recipe.model_validate({"name": "r", "tasks": [task], "distill": {"student_init": student_init}} | changes)
    return TaskContext(recipe, "maths", folder, {"teacher": "float32", "student": "float32"})


def _weights(loaded: LoadedModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loaded.model.parameters()])


def test_an_untrained_student_is_its_checkpoint(tiny: dict[str, Path], tmp_path: Path) -> None:
    context = _context(tiny, tmp_path, "checkpoint")
    for seed in (0, 1):
        assert torch.equal(_weights(context.untrained_student(seed)), _weights(load_model(tiny["student"])))


def test_an_untrained_student_has_the_weights_of_its_seed(tiny: dict[str, Path], tmp_path: Path) -> None:
    first, again, other = (_weights(_context(tiny, tmp_path, "random").untrained_student(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, _weights(load_model(tiny["student"])))


@pytest.mark.parametrize("student_init", ["checkpoint", "random"])
@pytest.mark.parametrize("trusted", [True, False])
def test_remote_code_is_trusted_where_the_recipe_says_so(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student_init: str, trusted: bool
) -> None:
    asked: list[bool] = []
    for name in ("load_model", "initialise_student"):
        monkeypatch.setattr(module, name, lambda *_, trust_remote_code=False, **__: asked.append(trust_remote_code))
    _context(tiny, tmp_path, student_init, trust_remote_code=trusted).untrained_student(0)
    assert asked == [trusted]
