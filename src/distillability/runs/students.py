"""Which students a recipe's arms ask for. Light: a plan counts them before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillability.config.recipe import Arm, Recipe
from distillability.config.recipe import Task as TaskConfig
from distillability.config.sources import parse_source
from distillability.errors import UserError
from distillability.runs.paths import student_folder

if TYPE_CHECKING:
    from distillability.runs.context import TaskContext

__all__ = ["Student", "calibrations_of", "students", "students_of"]


@dataclass(frozen=True)
class Student:
    """One student to be: what it learns from, how, and how much of it."""

    source: str
    calibration: int | None
    objective: str
    on_policy_share: float
    queries: int
    steps: int
    seed: int

    def folder(self, context: TaskContext) -> Path:
        prefix = f"-on-policy-{self.on_policy_share:g}" if self.on_policy_share else ""
        budget = f"q{self.queries}-s{self.steps}"
        return student_folder(context.run, context.task_name, self.source, self.calibration, self.objective, prefix, budget, self.seed)

    @property
    def title(self) -> str:
        number = f" #{self.calibration}" if self.calibration else ""
        return f"{self.source}{number} {self.objective} q{self.queries} s{self.steps} seed {self.seed}"


def students(context: TaskContext) -> list[Student]:
    """All students of the context's task."""
    return students_of(context.recipe, context.config)


def students_of(recipe: Recipe, task: TaskConfig) -> list[Student]:
    """All students of the arms, each once, the headline budget first."""
    found = {student: None for arm in recipe.distill.arms for student in _of_arm(recipe, task, arm)}
    headline = (task.queries, task.steps)
    return sorted(found, key=lambda student: ((student.queries, student.steps) != headline, student.seed))


def _of_arm(recipe: Recipe, task: TaskConfig, arm: Arm) -> Iterator[Student]:
    for name in arm.sources:
        for calibration in calibrations_of(recipe, name)[: arm.calibrations]:
            for objective in arm.objectives:
                for queries in arm.queries:
                    for steps in arm.steps:
                        for seed in range(arm.seeds):
                            yield Student(
                                name,
                                calibration,
                                objective,
                                arm.on_policy_share,
                                max(1, round(queries * task.queries)),
                                max(1, round(steps * task.steps)),
                                seed,
                            )


def calibrations_of(recipe: Recipe, source_name: str) -> list[int | None]:
    """The calibrations a source exists in: their numbers, or [None] for what no calibration touches."""
    source = parse_source(source_name, recipe.calibrate.teachers)
    if source is None:
        raise UserError.single(f"distill.arms: {source_name}", "unknown source", "`distillability validate` lists those there are")
    return list(range(recipe.calibrate.calibrations)) if source.teacher in recipe.calibrate.teachers else [None]
