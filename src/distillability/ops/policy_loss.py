"""The clipped policy-gradient loss with a KL anchor, token by token, as a function of the chosen token's log-probability."""

from __future__ import annotations

import torch

__all__ = ["clipped_token_loss", "k3"]


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) − d − 1 with d = log π₀ − log π_θ: an estimate of KL(π_θ‖π₀) that is never negative (Schulman, 2020)."""
    difference = reference - logprobs
    return difference.exp() - difference - 1


def clipped_token_loss(
    logprobs: torch.Tensor,
    *,
    advantages: torch.Tensor,
    old: torch.Tensor | None,
    reference: torch.Tensor | None,
    clip: tuple[float, float],
    anchor_coefficient: float,
    reverse_anchor: bool,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """−w min(r A, clip(r) A) + β K3, with r = π_θ/π_old (PPO, Schulman et al., 2017; GRPO, Shao et al., 2024).

    Args:
        logprobs: [N] log π_θ of the chosen tokens, with gradient.
        advantages: [N], of each token's completion.
        old: [N] log π_old; None where the policy has not moved since it sampled, so that r is 1 with the gradient of log π_θ.
        reference: [N] log π₀; None where there is no anchor.
        clip: r is held between 1 − clip[0] and 1 + clip[1].
        reverse_anchor: K3 times r, whose gradient is that of the next-token KL(π_θ‖π₀); else the gradient is that of KL(π₀‖π_θ).
        weights: [N] w, π_old as we compute it over π_old of the engine that sampled; None for 1.

    Returns:
        [N].
    """
    ratio = (logprobs - (logprobs.detach() if old is None else old)).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages)
    if weights is not None:
        loss = loss * weights
    if reference is None:
        return loss
    anchor = k3(logprobs, reference)
    return loss + anchor_coefficient * (anchor * ratio if reverse_anchor else anchor)
