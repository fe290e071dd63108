"""What has been evaluated of one task, read once from the evaluation files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distillability.evaluation.measures import Measure, Scores
from distillability.files import read_json
from distillability.results import Row
from distillability.runs.context import TaskContext
from distillability.runs.evaluation_files import student_before_file, student_file, teacher_file
from distillability.runs.students import Student, students
from distillability.types import Decoding

__all__ = ["Measured"]


@dataclass(frozen=True)
class Measured:
    """What has been evaluated of one task; arrays are read once."""

    context: TaskContext
    _read: dict[Path, dict[str, Any]] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.context.task_name

    @cached_property
    def teachers(self) -> list[tuple[str, int | None]]:
        """Teachers in the order of their knob, the plain one first."""
        settings = self.context.recipe.calibrate
        names = sorted(settings.teachers, key=lambda name: settings.teachers[name].knob)
        every = [("plain", None), *((name, number) for name in names for number in range(settings.calibrations))]
        return [(name, number) for name, number in every if teacher_file(self.context, name, number).is_file()]

    @cached_property
    def students(self) -> list[Student]:
        return [student for student in students(self.context) if student_file(self.context, student).is_file()]

    @property
    def complete(self) -> bool:
        settings = self.context.recipe.calibrate
        every_teacher = 1 + len(settings.teachers) * settings.calibrations
        return len(self.teachers) == every_teacher and len(self.students) == len(students(self.context))

    def knob(self, source: str) -> float | None:
        """The knob of the teacher that a source asks; None where no calibration is involved."""
        teacher = self.context.recipe.calibrate.teachers.get(self.context.source(source).teacher or "")
        return teacher.knob if teacher else None

    def proxy(self, source: str) -> str | None:
        asked = self.context.recipe.calibrate.teachers.get(self.context.source(source).teacher or "")
        return self.context.config.proxy if asked and asked.reward == "compatibility" else None

    def row(self, metric: str, measure: Measure, **fields: Any) -> Row:
        """A derived number of the test split as a row of `results.json`."""
        chosen = ", ".join(f"{part}: {name}" for part, name in measure.chosen.items())
        return Row(
            task=self.task,
            split="test",
            metric=metric,
            value=measure.value,
            ci_low=measure.low,
            ci_high=measure.high,
            interval=f"{measure.method}{f'; {chosen}' if chosen else ''}",
            n=measure.n,
            reason=measure.reason,
            **fields,
        )

    def read(self, file: Path) -> dict[str, Any]:
        if file not in self._read:
            self._read[file] = read_json(file)
        return self._read[file]

    def teacher(self, name: str, calibration: int | None) -> dict[str, Any]:
        return self.read(teacher_file(self.context, name, calibration))

    def student(self, student: Student) -> dict[str, Any]:
        return self.read(student_file(self.context, student))

    def before(self) -> list[dict[str, Any]]:
        """The untrained student, once a seed."""
        seeds = range(max((arm.seeds for arm in self.context.recipe.distill.arms), default=0))
        files = [student_before_file(self.context, seed) for seed in seeds]
        return [self.read(file) for file in files if file.is_file()]

    def rng(self, *what: object) -> np.random.Generator:
        return np.random.default_rng(self.context.seed("bootstrap", *what))

    def scores(self, which: Callable[[Student], bool], decoding: Decoding) -> Scores | None:
        """Right or wrong of all students that `which` picks, seeds and calibrations alike as rows; None where there are none."""
        return _stack([self.student(student) for student in self.students if which(student)], decoding)

    def scores_before(self, decoding: Decoding) -> Scores | None:
        """Right or wrong of the untrained student."""
        return _stack(self.before(), decoding)


def _stack(found: list[dict[str, Any]], decoding: Decoding) -> Scores | None:
    if not found or decoding not in found[0]["test"]:
        return None
    test = np.array([evaluation["test"][decoding]["right"] for evaluation in found])
    return Scores(test, np.array([evaluation["validate"]["greedy"]["right"] for evaluation in found]))
