"""Letting a model answer prompts and grading what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distillability.inference import complete
from distillability.models.load import LoadedModel
from distillability.tasks.base import Task
from distillability.types import Decoding, Grade, Prompt

__all__ = ["Evaluation", "evaluate_model", "shares_by_prompt"]


@dataclass(frozen=True)
class Evaluation:
    """What one model scored on one list of prompts under one decoding.

    right, right_steps, answer_only: one number a prompt, the share of its samples; None where the task cannot tell.
    texts: the first sample of every prompt; truncated: whether it was cut off; grades: its grade.
    n_truncated counts samples, all of which are graded wrong; n_tokens, mean_bytes and modes are over all samples.
    """

    decoding: Decoding
    samples: int
    right: list[float]
    right_steps: list[float] | None
    answer_only: list[float] | None
    mean_bytes: float
    modes: dict[str, float]
    n_truncated: int
    n_tokens: int
    texts: list[str]
    truncated: list[bool]
    grades: list[Grade]

    def summary(self) -> dict[str, Any]:
        """The JSON-serialisable part that results are computed from: everything but the texts."""
        return {key: value for key, value in vars(self).items() if key not in ("texts", "truncated", "grades")}


def evaluate_model(
    loaded: LoadedModel,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    decoding: Decoding,
    samples: int,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
    autocast_dtype: torch.dtype | None,
) -> Evaluation:
    """Answer every prompt `samples` times (once when greedy) and grade the answers."""
    samples = 1 if decoding == "greedy" else samples
    completions = complete(
        loaded,
        [prompt.text for prompt in prompts],
        decoding=decoding,
        max_new_tokens=max_new_tokens,
        seed=seed,
        samples=samples,
        batch_size=batch_size,
        autocast_dtype=autocast_dtype,
    )
    asked = [prompt for prompt in prompts for _ in range(samples)]
    grades = [task.grade_completion(*row) for row in zip(asked, completions.texts, completions.truncated, strict=True)]
    checks_steps = any(grade.right_steps is not None for grade in grades)
    tells_answers = any(grade.answer_only is not None for grade in grades)
    modes = Counter(grade.mode for grade in grades)
    return Evaluation(
        decoding=decoding,
        samples=samples,
        right=shares_by_prompt([grade.right for grade in grades], samples),
        right_steps=shares_by_prompt([bool(grade.right_steps) for grade in grades], samples) if checks_steps else None,
        answer_only=shares_by_prompt([bool(grade.answer_only) for grade in grades], samples) if tells_answers else None,
        mean_bytes=sum(len(text.encode()) for text in completions.texts) / len(grades),
        modes={mode: modes[mode] / len(grades) for mode in task.modes},
        n_truncated=sum(completions.truncated),
        n_tokens=completions.n_tokens,
        texts=completions.texts[::samples],
        truncated=completions.truncated[::samples],
        grades=grades[::samples],
    )


def shares_by_prompt(values: Sequence[bool], samples: int) -> list[float]:
    """The share of true values among the samples of each prompt, which stand side by side."""
    return [sum(values[start : start + samples]) / samples for start in range(0, len(values), samples)]
