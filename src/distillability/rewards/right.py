"""Which completions count as right: the task reward, the gate and s_C all mean the same ones."""

from __future__ import annotations

from typing import Literal

from distillability.types import Grade

__all__ = ["counts_as_right"]


def counts_as_right(grade: Grade, require: Literal["steps", "none"]) -> bool:
    """Right in the answer and, with `require="steps"`, in every visible step; the answer decides where a task cannot check steps.

    Source: ours.
    """
    return grade.right and (require == "none" or grade.right_steps is not False)
