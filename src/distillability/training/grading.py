"""Asking a task for a grade. A grader is the user's own code: what it raises, or returns in place of a grade, is named."""

from __future__ import annotations

from distillability.errors import UserError
from distillability.tasks.base import Task
from distillability.types import Grade, Prompt

__all__ = ["RewardFailure", "grade_text"]


class RewardFailure(Exception):
    """A completion could not be graded or scored; the message says what failed and why."""


def grade_text(task: Task, prompt: Prompt, text: str, truncated: bool) -> Grade:
    """The task's grade of one completion; a truncated one is wrong.

    Raises:
        RewardFailure: the grader raised, or returned something else than yes, no, or (where it may) None.
    """
    where = f"the grader of {task.name}, on prompt {prompt.id},"
    try:
        grade = task.grade_completion(prompt, text, truncated)
    except UserError as error:  # it says by itself which row that was
        raise RewardFailure(error.brief) from error
    except Exception as error:
        raise RewardFailure(f"{where} raised {type(error).__name__}: {error}") from error
    for name in ("right", "right_steps", "answer_only"):
        value = getattr(grade, name)
        if value not in (True, False) and (value is not None or name == "right"):
            raise RewardFailure(f"{where} returned {name} = {value!r}")
    return grade
