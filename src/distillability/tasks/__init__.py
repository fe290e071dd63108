"""A task = prompts + grade() + validate()."""

from __future__ import annotations

from pathlib import Path

from distillability.config.recipe import InstructionsTask, JsonlTask, KnowledgeTask, MathsTask
from distillability.config.recipe import Task as TaskConfig
from distillability.tasks.base import Task, split_of
from distillability.tasks.instructions import Instructions
from distillability.tasks.jsonl import Jsonl
from distillability.tasks.knowledge import Knowledge
from distillability.tasks.maths import Maths
from distillability.tasks.modes import CrossedModes
from distillability.tasks.reward_model import RewardModel

__all__ = ["CrossedModes", "Instructions", "Jsonl", "Knowledge", "Maths", "RewardModel", "Task", "build_task", "split_of"]


def build_task(config: TaskConfig) -> Task:
    """The task that a recipe describes.

    Raises:
        UserError: the task's data cannot be used.
    """
    match config:
        case MathsTask():
            return Maths(config.name, operations=config.operations)
        case KnowledgeTask():
            return Knowledge(config.name, hops=config.hops)
        case InstructionsTask():
            judge = None if config.reward_model is None else RewardModel(config.reward_model)
            return Instructions(config.name, operations=config.operations, judge=judge, threshold=config.reward_threshold)
        case JsonlTask():
            return Jsonl(
                config.name,
                Path(config.path),
                prompt_column=config.prompt_column,
                answer_column=config.answer_column,
                grader=config.grader,
                chance=config.chance,
            )
