"""A probe: a model that takes a few steps on the texts that students would learn from, and then answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from distillability.diagnosis.evidence import Probed
from distillability.inference import complete
from distillability.models.load import LoadedModel
from distillability.objectives import build_objective
from distillability.tasks import Task
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.types import Prompt, Trace, complete_traces

__all__ = ["train_and_ask", "train_probe"]


def train_probe(loaded: LoadedModel, texts: Sequence[Trace], settings: StudentSettings, autocast: torch.dtype | None) -> dict[str, Any]:
    """Let a model take a few steps of seqkd, as a student would in earnest; it is changed.

    Returns:
        steps, seconds, tokens, traces learnt from, forwards (sequences); steps 0 and a reason where no text is complete.
    """
    traces = complete_traces(texts)
    if not traces:
        return {"steps": 0, "traces": 0, "forwards": 0, "reason": "no text was completed within max_completion_length"}
    with TemporaryDirectory() as folder:
        outcome = distill_student(
            student=loaded,
            objective=build_objective("seqkd"),
            traces=traces,
            signals=None,
            teacher=None,
            settings=settings,
            autocast_dtype=autocast,
            folder=Path(folder),
        )
    forwards = outcome["steps"] * settings.batch_size * settings.gradient_accumulation_steps
    return outcome | {"traces": len(traces), "forwards": forwards}


def train_and_ask(
    loaded: LoadedModel,
    who: str,
    texts: Sequence[Trace],
    task: Task,
    prompts: Sequence[Prompt],
    settings: StudentSettings,
    autocast: torch.dtype | None,
) -> tuple[Probed | None, dict[str, Any]]:
    """Train a probe, and let it answer every prompt once, sampled. With what `train_probe` returns, the answers' forwards added."""
    outcome = train_probe(loaded, texts, settings, autocast)
    if not outcome["steps"]:
        return None, outcome
    completions = complete(
        loaded,
        [prompt.text for prompt in prompts],
        decoding="sampled",
        max_new_tokens=settings.max_completion_length,
        seed=settings.seed,
        autocast_dtype=autocast,
    )
    graded = [task.grade_completion(*row) for row in zip(prompts, completions.texts, completions.truncated, strict=True)]
    right = np.array([grade.right for grade in graded], dtype=np.float64)
    found = Probed(who, outcome["steps"], outcome["traces"], right, np.array(completions.truncated, dtype=np.float64))
    return found, outcome | {"forwards": outcome["forwards"] + len(prompts)}
