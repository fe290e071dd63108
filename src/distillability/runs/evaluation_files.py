"""Where the answers of teachers and students lie in a run folder."""

from __future__ import annotations

from pathlib import Path

from distillability.runs.context import TaskContext
from distillability.runs.paths import evaluation_file, numbered
from distillability.runs.students import Student

__all__ = ["samples_file", "student_before_file", "student_file", "teacher_file"]


def teacher_file(context: TaskContext, name: str, calibration: int | None) -> Path:
    return evaluation_file(context.run, context.task_name, "teachers", numbered(name, calibration))


def student_before_file(context: TaskContext, seed: int) -> Path:
    return evaluation_file(context.run, context.task_name, "students", f"before-seed-{seed}")


def student_file(context: TaskContext, student: Student) -> Path:
    inside = student.folder(context).relative_to(context.run / "distill" / context.task_name)
    return evaluation_file(context.run, context.task_name, "students", *inside.parts)


def samples_file(proof: Path) -> Path:
    """The first few texts of an evaluation, for the report."""
    return proof.with_suffix(".samples.jsonl")
