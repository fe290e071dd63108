"""What is written after every step of a calibration, and who stops it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distillability.config.recipe import Calibrate
from distillability.training.resume import prune
from distillability.training.stops import CalibrationStopped, Stop, Watched, find_stop
from distillability.training.trainer import CalibrationTrainer

__all__ = ["StepRecord"]


class StepRecord(TrainerCallback):
    """Writes a line of metrics for every step, measures the accuracy floor when that is due, and stops where a rule objects.

    A step's completions were drawn before its update, so what they show is the policy that the step before left behind.
    """

    def __init__(self, trainer: CalibrationTrainer, settings: Calibrate, progress: Callable[[int, int], None]):
        self.trainer, self.settings, self.progress = trainer, settings, progress
        self.started = time.perf_counter()
        self.stop: Stop | None = None

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **_: Any) -> None:
        """A gradient that is not finite would be in every weight after this step: the update is not made."""
        finite = [parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None]
        if finite and not torch.stack(finite).all():
            raise CalibrationStopped(f"the gradient is not finite, in step {state.global_step + 1}")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        row = {"step": state.global_step, **self.trainer.pop_step(), "seconds": time.perf_counter() - self.started}
        metrics = self.trainer.metrics_file
        metrics.append({key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()})
        self.progress(state.global_step, state.max_steps)
        floor = self.trainer.floor
        if floor is not None and floor.is_due(state.global_step, state.max_steps):
            floor.measure(state.global_step)
            control.should_save = True  # weights that were measured can be come back to
        self.stop = find_stop(Watched(row, metrics.rows[0], self.settings, floor.file.rows if floor else ()))
        if self.stop is not None:
            control.should_training_stop = True
            control.should_save = False  # what a rule objects to is no checkpoint to come back to

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        floor = self.trainer.floor
        if state.is_world_process_zero:
            prune(Path(str(args.output_dir)), keep=lambda step: floor is not None and floor.holds(step))
