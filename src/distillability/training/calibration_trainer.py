"""The trainer of a calibration: it records every step, measures the accuracy floor when due, and stops where a rule objects."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distillability.config.recipe import Calibrate
from distillability.training.checkpoints import MetricsFile, prune
from distillability.training.floor import Floor
from distillability.training.lean_grpo import LeanGRPOTrainer
from distillability.training.reward import CompositeReward
from distillability.training.stops import CalibrationStopped, Stop, Watched, find_stop

__all__ = ["CalibrationTrainer", "StepRecord"]


class CalibrationTrainer(LeanGRPOTrainer):
    """Remembers what the loss saw of each step, beside what the reward saw, and lets no loss that is not finite pass.

    Attributes:
        floor: the accuracy floor, None where there is none.
        first_adapter: the weights of the adapter before the first step, None where all weights are trained.
    """

    reward: CompositeReward
    metrics_file: MetricsFile
    floor: Floor | None = None
    first_adapter: dict[str, torch.Tensor] | None = None
    _seen: list[dict[str, torch.Tensor]]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        self._require_finite(loss)
        seen = {"surprisal": self.last_surprisal, "tokens": inputs["completion_mask"].sum(1)}
        self._seen.append(seen if self.last_anchor is None else seen | {"anchor": self.last_anchor})
        return loss

    def _require_finite(self, loss: torch.Tensor) -> None:
        """Told of all processes' losses, each of them stops."""
        losses = self.accelerator.gather(loss.detach().reshape(1))
        if not losses.isfinite().all():
            raise CalibrationStopped(f"the loss is {losses[~losses.isfinite()][0].item()}, in step {self.state.global_step + 1}")

    def pop_step(self) -> dict[str, Any]:
        """The metrics of the step: the reward's, and over the completions of all processes

        tokens: of the completions, ends of turn included.
        entropy: the mean over sampled tokens of −log π_θ, in nats, which is unbiased for the entropy of the next token.
        anchor_nats: the mean over completions of Σ_t (log π_θ − log π₀); None without a reference.
        """
        seen, self._seen = self._seen, []
        columns = {key: self.accelerator.gather(torch.cat([part[key] for part in seen])) for key in seen[0]}
        return {
            **self.reward.metrics,
            "tokens": int(columns["tokens"].sum()),
            "entropy": float(columns["surprisal"].sum() / columns["tokens"].sum()),
            "anchor_nats": float(columns["anchor"].mean()) if "anchor" in columns else None,
        }


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
