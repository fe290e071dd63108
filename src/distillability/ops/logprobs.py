"""Log-probabilities of chosen tokens without a batch × length × vocabulary tensor."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from distillability.budgets import SCORED_POSITIONS
from distillability.ops.rowwise import Slope, rowwise
from distillability.ops.sharding import is_sharded, most_anywhere

__all__ = ["chosen_logprobs", "token_logprobs", "upcast"]


def chosen_logprobs(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, chunk: int = SCORED_POSITIONS) -> torch.Tensor:
    """log softmax(head(hidden))[target], position by position.

    Args:
        hidden: [N, D], last hidden states at the positions that predict `targets` [N].
        head: maps [n, D] to logits [n, V].
        chunk: positions projected at a time; at most chunk × V logits exist at once, in the backward pass too, which projects again.

    Returns:
        [N] float32 (float64 where the logits are), in nats.

    Raises:
        ValueError: there are not as many targets as positions.
    """
    if len(hidden) != len(targets):
        raise ValueError(f"{len(hidden)} positions for {len(targets)} targets")
    parts, n_chunks = [], -(-len(targets) // chunk)
    if is_sharded(head):
        n_chunks = most_anywhere(n_chunks, hidden.device)  # the last ones are empty
    for start in range(0, n_chunks * chunk, chunk):
        rows = hidden[start : start + chunk], head, targets[start : start + chunk]
        parts.append(checkpoint(_chosen, *rows, use_reentrant=False) if torch.is_grad_enabled() else _chosen(*rows))
    return torch.cat(parts) if parts else upcast(hidden.new_zeros(0))


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target], position by position: [N] float32 (float64 where the logits are), in nats, from [N, V] and [N]."""

    def rule(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        logprobs, column = upcast(logits).log_softmax(-1), targets[:, None]
        return logprobs.gather(-1, column).squeeze(
            -1
        ), lambda: logprobs.exp_().neg_().scatter_add_(-1, column, torch.ones_like(logprobs[:, :1]))

    return rowwise(rule, logits, targets)


def upcast(logits: torch.Tensor) -> torch.Tensor:
    """float32, in which probabilities are computed; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _chosen(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor) -> torch.Tensor:
    return token_logprobs(head(hidden), targets)
