"""A task = prompts + grade() + validate()."""

from __future__ import annotations

from distillability.config.recipe import DataTask, InstructionsTask, KnowledgeTask, MathsTask
from distillability.config.recipe import Task as TaskConfig
from distillability.tasks.base import Task, split_of
from distillability.tasks.data import Data
from distillability.tasks.graders import Grader, named_grader, own_grader, reward_grader
from distillability.tasks.instructions import Instructions
from distillability.tasks.knowledge import Knowledge
from distillability.tasks.maths import Maths
from distillability.tasks.modes import CrossedModes
from distillability.tasks.reward_model import RewardModel
from distillability.tasks.rows import read_rows

__all__ = ["CrossedModes", "Data", "Instructions", "Knowledge", "Maths", "RewardModel", "Task", "build_task", "split_of"]


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
        case DataTask():
            return Data(
                config.name,
                config.path,
                read_rows(config.path, subset=config.subset, split=config.split, revision=config.revision),
                _grader(config),
                prompt_column=config.prompt_column,
                prompt_template=config.prompt_template,
                answer_column=config.answer_column,
                threshold=config.threshold,
                chance=config.chance,
            )


def _grader(config: DataTask) -> Grader:
    if config.grader == "reward_model":
        assert config.reward_model is not None  # the recipe's own check
        return reward_grader(config.reward_model)
    return own_grader(config.grader) if ":" in config.grader else named_grader(config.grader)
