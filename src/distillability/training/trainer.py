"""The trainer of a calibration: what it remembers of each step, and what it lets pass."""

from __future__ import annotations

from typing import Any

import torch

from distillability.training.compat import LeanGRPOTrainer
from distillability.training.floor import Floor
from distillability.training.resume import MetricsFile
from distillability.training.reward import CompositeReward
from distillability.training.stops import CalibrationStopped

__all__ = ["CalibrationTrainer"]


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
