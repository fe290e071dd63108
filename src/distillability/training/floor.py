"""The accuracy floor: sampled accuracy on held-out prompts, and how much of C it leaves.

Every so many steps the policy answers prompts of the validate split, as it does in training: sampled at temperature 1. `low` is the
one-sided lower bound (Wilson's, clustered by prompt) of the share that counts as right, f the floor, m its margin. After each measurement

    λ ← max(0, λ + (f − low) / m)            and C′ is multiplied by η / (1 + λ)
    silent while low < f − m, and from then on until low ≥ f: C′ = 0

λ alone only slows C down, and Adam undoes that. The measurements are a file, and λ is what follows from them, so that a resumed calibration
goes on with the λ that it had.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from distillability.config.recipe import AccuracyFloor, Calibrate
from distillability.errors import UserError
from distillability.evaluation.harness import shares_by_prompt
from distillability.evaluation.intervals import prompt_mean
from distillability.inference import complete
from distillability.models.eval_mode import eval_mode
from distillability.models.load import LoadedModel
from distillability.rewards.compose import counts_as_right
from distillability.tasks.base import Task
from distillability.training.checkpoints import MetricsFile
from distillability.training.grading import RewardFailure, grade_text
from distillability.training.stops import CalibrationStopped
from distillability.types import Prompt

__all__ = ["Floor", "held_out_accuracy", "next_multiplier"]


def next_multiplier(multiplier: float, silent: bool, *, low: float, floor: float, margin: float) -> tuple[float, bool]:
    """λ, and whether C is silent, after a measurement whose lower bound is `low`."""
    return max(0.0, multiplier + (floor - low) / margin), low < floor - margin or (silent and low < floor)


class Floor:
    """What has been measured, and what follows for the reward.

    Args:
        measure: the accuracy of the policy of the moment on each held-out prompt, [N], all processes together; asked with the step.
        file: one line a measurement: step, accuracy, low, n, and from then on multiplier and silent.
    """

    def __init__(self, settings: AccuracyFloor, measure: Callable[[int], Sequence[float]], file: MetricsFile):
        self.settings, self._measure, self.file = settings, measure, file

    @property
    def multiplier(self) -> float:
        """λ."""
        return float(self.file.rows[-1]["multiplier"])

    @property
    def silent(self) -> bool:
        """Whether C counts for nothing until the floor is reached again."""
        return bool(self.file.rows[-1]["silent"])

    def is_due(self, step: int, max_steps: int) -> bool:
        """Whether the weights after this step are to be measured."""
        return step % self.settings.eval_steps == 0 or step >= max_steps

    def measure(self, step: int) -> None:
        """Measure the policy as it is after `step` and write the line."""
        settings = self.settings
        found = prompt_mean(self._measure(step), confidence=settings.confidence, side="lower")
        before = (self.multiplier, self.silent) if self.file.rows else (0.0, False)
        multiplier, silent = next_multiplier(*before, low=found.low, floor=settings.accuracy, margin=settings.margin)
        row = {"step": step, "accuracy": found.value, "low": found.low, "n": found.n, "multiplier": multiplier, "silent": silent}
        self.file.append(row)

    def holds(self, step: int) -> bool:
        """Whether the weights after this step were measured and found above the floor."""
        return any(row["step"] == step and row["low"] >= self.settings.accuracy for row in self.file.rows)

    def begin(self) -> None:
        """Measure the plain teacher, where no earlier process has.

        Raises:
            UserError: the floor lies above its accuracy, or so near that no measurement could tell.
        """
        if not self.file.rows:
            self.measure(0)
        plain, floor = self.file.rows[0], self.settings.accuracy
        if plain["low"] >= floor:
            return
        what = f"the plain teacher's own sampled accuracy is {plain['accuracy']:.4f} (lower bound {plain['low']:.4f}, n {plain['n']})"
        fix = f"lower the floor to at most {math.floor(1000 * plain['low']) / 1000:g}"
        if plain["accuracy"] >= floor:
            fix += ", or raise calibrate.accuracy_floor.completions"
        raise UserError.single(f"calibrate.accuracy_floor.accuracy = {floor:g}", what, fix)


def held_out_accuracy(
    policy: Callable[[], LoadedModel],
    task: Task,
    settings: Calibrate,
    *,
    completions: int,
    max_completion_length: int,
    seed: int,
    autocast_dtype: Any,
) -> Callable[[int], list[float]]:
    """What `Floor` measures with: shares of right samples of each of this many prompts, or of fewer with several samples each.

    Every process answers its share of the prompts. Each step draws anew.
    """
    prompts = task.prompts("validate", completions)
    samples = -(-completions // len(prompts))
    state = PartialState()
    mine = prompts[state.process_index :: state.num_processes]

    def measure(step: int) -> list[float]:
        loaded = policy()
        with eval_mode(loaded.model):
            answers = complete(
                loaded,
                [prompt.text for prompt in mine],
                decoding="sampled",
                max_new_tokens=max_completion_length,
                seed=random.Random(f"{seed} {step} {state.process_index}").getrandbits(31),
                samples=samples,
                autocast_dtype=autocast_dtype,
            )
        asked = [prompt for prompt in mine for _ in range(samples)]
        parts = gather_object([_shares(task, settings, asked, answers.texts, answers.truncated, samples)])
        for part in parts:
            if isinstance(part, str):
                raise CalibrationStopped(f"{part}, when held-out accuracy was measured after step {step}")
        return [share for part in parts for share in part]

    return measure


def _shares(
    task: Task, settings: Calibrate, prompts: Sequence[Prompt], texts: Sequence[str], truncated: Sequence[bool], samples: int
) -> list[float] | str:
    """The share of right samples of each prompt; what failed, where a text could not be graded."""
    try:
        grades = [grade_text(task, *row) for row in zip(prompts, texts, truncated, strict=True)]
    except RewardFailure as failure:
        return str(failure)
    return shares_by_prompt([counts_as_right(grade, settings.require) for grade in grades], samples)
