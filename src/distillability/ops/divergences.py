"""Divergences between next-token distributions, one value a position.

`teacher` is p and `student` is q. Inputs are logits [N, V], and log-probabilities are logits too. Everything is computed in float32, or
in float64 where the inputs are. The gradient is the student's; the teacher gets none.

A logit of −∞ is a token without mass, such as the padding of a vocabulary: it adds nothing where the first distribution of a KL has no
mass, and the KL is +∞ where only the second has none. A position without any mass says nothing: it is nan, not 0.

Each rule below returns its values and, on demand, their gradient with respect to the student's logits z. With f the gradient with respect
to the probabilities q, that is q (f − Σ q f), whatever constant is added to f.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from distillability.errors import UserError
from distillability.ops.logprobs import upcast
from distillability.ops.rowwise import Slope, rowwise

__all__ = ["forward_kl", "jsd", "require_same_shape", "reverse_kl", "skewed_forward_kl", "skewed_reverse_kl", "total_variation"]


def forward_kl(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(p‖q) = Σ p (log p − log q), [N] in nats."""

    def rule(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        p, gap = log_p.exp(), (log_p - log_q).masked_fill_(log_p.isneginf(), 0.0)  # masked here, since 0 · ∞ is nan
        values = (p * gap).sum(-1)
        return values, lambda: log_q.exp_().sub_(p)

    return _divergence(rule, teacher_logits, student_logits)


def reverse_kl(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(q‖p) = Σ q (log q − log p), [N] in nats."""

    def rule(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        q, gap = log_q.exp(), (log_q - log_p).masked_fill_(log_q.isneginf(), 0.0)
        values = (q * gap).sum(-1)
        return values, lambda: gap.sub_(values[:, None]).mul_(q)

    return _divergence(rule, teacher_logits, student_logits)


def jsd(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor, teacher_weight: float = 0.5) -> torch.Tensor:
    """π KL(p‖m) + (1 − π) KL(q‖m) with m = π p + (1 − π) q and π = `teacher_weight`, [N] in nats (Agarwal et al., GKD).

    Bounded by −π log π − (1 − π) log(1 − π), so finite whatever the supports.
    """
    weight = _share("teacher_weight", teacher_weight)

    def rule(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        p, q = log_p.exp(), log_q.exp()
        log_m = _mixture(p, q, weight).log_()
        gap = _gap(q, log_q, log_m)
        of_student = (q * gap).sum(-1)
        values = weight * (p * _gap(p, log_p, log_m)).sum(-1) + (1 - weight) * of_student
        return values, lambda: gap.sub_(of_student[:, None]).mul_(q).mul_(1 - weight)

    return _divergence(rule, teacher_logits, student_logits)


def skewed_forward_kl(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor, skew: float = 0.1) -> torch.Tensor:
    """KL(p‖m) with m = λ p + (1 − λ) q and λ = `skew`, [N] in nats (Ko et al., DistiLLM). Bounded by −log λ."""
    weight = _share("skew", skew)

    def rule(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        p, q = log_p.exp(), log_q.exp()
        m = _mixture(p, q, weight)
        values = (p * _gap(p, log_p, m.log())).sum(-1)

        def gradient() -> torch.Tensor:
            weighted = (p * q).div_(m).mul_(1 - weight)
            return q.mul_(weighted.sum(-1, keepdim=True)).sub_(weighted)

        return values, gradient

    return _divergence(rule, teacher_logits, student_logits)


def skewed_reverse_kl(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor, skew: float = 0.1) -> torch.Tensor:
    """KL(q‖m) with m = (1 − λ) p + λ q and λ = `skew`, [N] in nats (Ko et al., DistiLLM). Bounded by −log λ."""
    weight = _share("skew", skew)

    def rule(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        p, q = log_p.exp(), log_q.exp()
        m = _mixture(p, q, 1 - weight)
        gap = _gap(q, log_q, m.log())
        values = (q * gap).sum(-1)

        def gradient() -> torch.Tensor:
            gap.addcdiv_(q, m, value=-weight)
            return gap.sub_((q * gap).sum(-1, keepdim=True)).mul_(q)

        return values, gradient

    return _divergence(rule, teacher_logits, student_logits)


def total_variation(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """½ Σ |p − q|, [N], from 0 to 1: the largest difference of what the two give any set of tokens (Wen et al., f-distill)."""

    def rule(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, Slope]:
        q = log_q.exp()
        gap = q - log_p.exp()

        def gradient() -> torch.Tensor:
            side = gap.sign_().mul_(0.5)
            return side.sub_((q * side).sum(-1, keepdim=True)).mul_(q)

        return gap.abs().sum(-1).mul_(0.5), gradient

    return _divergence(rule, teacher_logits, student_logits)


def _divergence(
    rule: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Slope]], teacher_logits: torch.Tensor, student_logits: torch.Tensor
) -> torch.Tensor:
    require_same_shape(teacher_logits, student_logits)
    return rowwise(
        lambda student, teacher: rule(upcast(student).log_softmax(-1), upcast(teacher).log_softmax(-1)), student_logits, teacher_logits
    )


def require_same_shape(teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> None:
    """Raises UserError where the two have other positions or vocabularies."""
    if teacher_logits.shape != student_logits.shape:
        raise UserError.single(
            "logits objective",
            f"teacher and student disagree in shape: {tuple(teacher_logits.shape)} and {tuple(student_logits.shape)}",
            "use models of one vocabulary, or the objective uld or seqkd",
        )


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return value


def _mixture(p: torch.Tensor, q: torch.Tensor, share: float) -> torch.Tensor:
    """share · p + (1 − share) · q, kept from vanishing so that it can divide and have a logarithm."""
    return torch.lerp(q, p, share).clamp_min_(torch.finfo(p.dtype).tiny)


def _gap(p: torch.Tensor, log_p: torch.Tensor, log_m: torch.Tensor) -> torch.Tensor:
    """log p − log m, 0 where p has no mass."""
    return (log_p - log_m).masked_fill_(p == 0, 0.0)
