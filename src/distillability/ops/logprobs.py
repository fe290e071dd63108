"""Log-probabilities of chosen tokens without a batch × length × vocabulary tensor."""

from __future__ import annotations

import torch

__all__ = ["chosen_logprobs"]


def chosen_logprobs(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, chunk: int = 1024) -> torch.Tensor:
    """log softmax(head(hidden))[target], position by position.

    Args:
        hidden: [N, D], last hidden states at the positions that predict `targets` [N].
        head: maps [n, D] to logits [n, V].
        chunk: positions projected at a time; at most chunk × V logits exist at once.

    Returns:
        [N] float32, in nats.
    """
    parts = []
    for start in range(0, len(targets), chunk):
        logits = head(hidden[start : start + chunk]).float()
        chosen = logits.gather(-1, targets[start : start + chunk, None]).squeeze(-1)
        parts.append(chosen - logits.logsumexp(-1))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
