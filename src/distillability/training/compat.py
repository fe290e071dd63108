"""Every private name of TRL that we lean on, in one place.

The pinned range of TRL is in pyproject; `tests/unit/test_trl_compat.py` fails loudly when one of these names changes its meaning.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer

__all__ = ["PolicyLogprobsMixin", "frozen_reference"]


class PolicyLogprobsMixin(GRPOTrainer):
    """A GRPOTrainer that shows the log-probabilities that its loss was computed from.

    After each `_compute_loss`, `last_anchor` holds Σ_t (log π_θ − log π₀) of every completion of that micro-batch, [B] in nats at
    temperature 1, detached; None where no reference takes part in the loss.
    """

    last_anchor: torch.Tensor | None = None
    _policy_logprobs: torch.Tensor

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        output = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        if torch.is_grad_enabled():  # the loss, not the frozen reference
            self._policy_logprobs = output[0].detach()
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        reference = inputs.get("ref_per_token_logps")
        self.last_anchor = None
        if reference is not None:
            difference = (self._policy_logprobs - reference) * inputs["completion_mask"]
            self.last_anchor = difference.sum(dim=1)
        return loss


def frozen_reference(trainer: GRPOTrainer) -> torch.nn.Module | None:
    """The original teacher that TRL loaded for its KL term; None where it needs none."""
    reference = trainer.ref_model
    return None if reference is None else trainer.accelerator.unwrap_model(reference)
