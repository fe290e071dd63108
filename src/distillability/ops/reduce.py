"""THE division: a sum over tokens becomes a mean here and nowhere else."""

from __future__ import annotations

import torch

__all__ = ["global_mean"]


def global_mean(total: torch.Tensor, n_tokens: torch.Tensor | int, world_size: int = 1) -> torch.Tensor:
    """An unnormalised sum over this micro-batch's tokens, divided by the tokens of the whole optimiser step.

    Args:
        total: scalar, this micro-batch's sum.
        n_tokens: valid tokens of all micro-batches of all processes that make up one optimiser step.
        world_size: processes whose gradients are averaged afterwards; the factor undoes that average.

    Raises:
        ValueError: no token at all: a mean of nothing is missing, not 0.

    Micro-batch losses made this way add up to the mean over the step's tokens, however the step is cut into micro-batches and processes.
    """
    if not n_tokens > 0:
        raise ValueError(f"a mean over {int(n_tokens)} tokens")
    return total * world_size / n_tokens
