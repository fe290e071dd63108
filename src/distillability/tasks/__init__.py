"""A task = prompts + grade() + validate()."""

from __future__ import annotations

from pathlib import Path

from distillability.config.recipe import JsonlTask, MathsTask
from distillability.config.recipe import Task as TaskConfig
from distillability.tasks.base import Task, split_of
from distillability.tasks.jsonl import Jsonl
from distillability.tasks.maths import Maths

__all__ = ["Jsonl", "Maths", "Task", "build_task", "split_of"]


def build_task(config: TaskConfig) -> Task:
    """The task that a recipe describes.

    Raises:
        UserError: the task's data cannot be used.
    """
    match config:
        case MathsTask():
            return Maths(config.name, operations=config.operations)
        case JsonlTask():
            return Jsonl(
                config.name,
                Path(config.path),
                prompt_column=config.prompt_column,
                answer_column=config.answer_column,
                grader=config.grader,
                chance=config.chance,
            )
