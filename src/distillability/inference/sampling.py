"""Choosing the next token from logits by the inverse of the cumulative distribution."""

from __future__ import annotations

import torch

__all__ = ["choose_tokens"]

_BLOCK = 128  # tokens summed at once: the running sum over a large vocabulary is serial, sums of blocks are not


def choose_tokens(logits: torch.Tensor, uniforms: torch.Tensor | None, *, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row, and its log-probability at this temperature over the whole vocabulary.

    Args:
        logits: [B, V] float32; overwritten.
        uniforms: [B] in [0, 1), one draw a row; None takes the most likely token.

    Returns:
        tokens [B] int64, logprobs [B] float32 in nats.
    """
    if uniforms is None:
        best, tokens = logits.max(-1)
        return tokens, -(logits.sub_(best[:, None]).exp_().sum(-1)).log_()
    weights = logits.div_(temperature) if temperature != 1.0 else logits
    weights = weights.sub_(weights.max(-1, keepdim=True).values).exp_()
    mass = weights.sum(-1)
    tokens = _inverse_cdf(weights, uniforms)
    return tokens, (weights.gather(1, tokens[:, None]).squeeze(1) / mass).log_()


def _inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first token at which the running sum of [B, V] weights exceeds uniform × total; never a token of weight 0."""
    rows, vocabulary = weights.shape
    if vocabulary <= 8 * _BLOCK:
        return _first_above(weights, uniforms)[0]
    padded = torch.nn.functional.pad(weights, (0, -vocabulary % _BLOCK)).view(rows, -1, _BLOCK)
    block, rest = _first_above(padded.sum(-1), uniforms)
    inside = padded[torch.arange(rows, device=weights.device), block]
    return block * _BLOCK + _first_above(inside, rest)[0]


def _first_above(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The index where the running sum exceeds uniform × total, and how far into that index's own weight the draw falls, in [0, 1)."""
    running = weights.cumsum(-1)
    total = running[:, -1:]
    # Rounding may lift the product to the total itself, beyond the last index.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(running, target, right=True)
    weight = weights.gather(1, index)
    share = (target - (running.gather(1, index) - weight)) / weight
    return index.squeeze(1), share.squeeze(1).clamp(0, 1)
