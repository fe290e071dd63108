"""Divergences between next-token distributions, one value a position.

`teacher` is p and `student` is q. Inputs are logits [N, V], and log-probabilities are logits too. Everything is computed in float32, or
in float64 where the inputs are.

A logit of −∞ is a token without mass, such as the padding of a vocabulary: it adds nothing where the first distribution of a KL has no
mass, and the KL is +∞ where only the second has none. A position without any mass says nothing: it is nan, not 0.
"""

from __future__ import annotations

import math

import torch

from distillability.errors import UserError
from distillability.ops.logprobs import widen

__all__ = ["forward_kl", "jsd", "reverse_kl"]


def forward_kl(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(p‖q) = Σ p (log p − log q), [N] in nats."""
    teacher, student = _log_probabilities(teacher_logits, student_logits)
    return _kl(teacher, student)


def reverse_kl(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(q‖p) = Σ q (log q − log p), [N] in nats."""
    teacher, student = _log_probabilities(teacher_logits, student_logits)
    return _kl(student, teacher)


def jsd(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor, teacher_weight: float = 0.5) -> torch.Tensor:
    """π KL(p‖m) + (1 − π) KL(q‖m) with m = π p + (1 − π) q and π = `teacher_weight`, [N] in nats (Agarwal et al., GKD).

    Bounded by −π log π − (1 − π) log(1 − π), so finite whatever the supports.
    """
    if not 0 < teacher_weight < 1:
        raise ValueError(f"teacher_weight must lie strictly between 0 and 1, got {teacher_weight}")
    teacher, student = _log_probabilities(teacher_logits, student_logits)
    mixture = _logaddexp(teacher + math.log(teacher_weight), student + math.log1p(-teacher_weight))
    return teacher_weight * _kl(teacher, mixture) + (1 - teacher_weight) * _kl(student, mixture)


def _log_probabilities(teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if teacher_logits.shape != student_logits.shape:
        raise UserError.single(
            "logits objective",
            f"teacher and student disagree in shape: {tuple(teacher_logits.shape)} and {tuple(student_logits.shape)}",
            "use models of one vocabulary, or the objective seqkd",
        )
    return widen(teacher_logits).log_softmax(-1), widen(student_logits).log_softmax(-1)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Σ p (log p − log q), where a token of no p mass adds nothing, even where log p is −∞."""
    # Masking the difference, not the product: the gradient of a masked product is still 0 · ∞.
    return (log_p.exp() * (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)).sum(-1)


def _logaddexp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """log(e^a + e^b), with the gradient 0 instead of nan where both are −∞."""
    neither = a.isneginf() & b.isneginf()
    return torch.logaddexp(a.masked_fill(neither, 0.0), b.masked_fill(neither, 0.0)).masked_fill(neither, -math.inf)
