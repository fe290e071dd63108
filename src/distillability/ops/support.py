"""Divergences on the teacher's likeliest tokens: what an interface that tells the k best gives away; a remedy for tail noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from distillability.ops.divergences import require_same_shape
from distillability.ops.logprobs import upcast

__all__ = ["on_top_k"]


def on_top_k(
    divergence: Callable[..., torch.Tensor], *, teacher_logits: torch.Tensor, student_logits: torch.Tensor, k: int, rest: bool
) -> torch.Tensor:
    """`divergence` [N] of teacher and student [N, V] on the teacher's k likeliest tokens, or on all where there are no more.

    The plain sum over the k would be no divergence: a student lowers the reverse KL of it by moving mass out of the k. A token that ties
    with the k-th is in or out by chance, but for one without mass: renormalised models share the support of the teacher's k.

    Args:
        rest: one more class, with all the mass outside the k, log(1 − Σ); else what is outside is forgotten and the two are renormalised
            on the tokens of the k that have mass, so that it does not matter how much mass the student has elsewhere.

    Raises:
        UserError: the vocabularies differ.
    """
    require_same_shape(teacher_logits, student_logits)
    if k >= teacher_logits.shape[-1]:
        student = student_logits if rest else _on_support(student_logits, teacher_logits)
        return divergence(teacher_logits=teacher_logits, student_logits=student)
    log_p, log_q = (upcast(logits).log_softmax(-1) for logits in (teacher_logits, student_logits))
    places = log_p.topk(k, dim=-1, sorted=False).indices
    teacher, student = (_gathered(logprobs, places, rest) for logprobs in (log_p, log_q))
    return divergence(teacher_logits=teacher, student_logits=student if rest else _on_support(student, teacher))


def _on_support(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The student [N, K] without mass where the teacher has none: among such places the k likeliest would be arbitrary."""
    return student.masked_fill(teacher.isneginf(), -math.inf)


def _gathered(logprobs: torch.Tensor, places: torch.Tensor, rest: bool) -> torch.Tensor:
    """[N, V] → [N, k] at the places, and a last column of what all others have together."""
    inside = logprobs.gather(-1, places)
    if not rest:
        return inside
    others = logprobs.scatter(-1, places, -math.inf)
    none = others.isneginf().all(-1, keepdim=True)  # whose logarithm has no gradient
    outside = others.masked_fill(none, 0.0).logsumexp(-1, keepdim=True).masked_fill(none, -math.inf)
    return torch.cat((inside, outside), -1)
