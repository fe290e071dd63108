"""How far two next-token distributions lie apart when nobody knows which of their tokens are the same."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from distillability.ops.logprobs import upcast
from distillability.ops.rowwise import Slope, rowwise

__all__ = ["sorted_distance"]


def sorted_distance(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """Σ over i of |p of rank i − q of rank i|, [N], from 0 to 2: the distance of the sorted probabilities (Boizard et al., ULD).

    The least cost of moving one into the other where any token may stand for any other. The gradient is the student's.

    Args:
        teacher_logits, student_logits: [N, V] and [N, V'], each of its own vocabulary; the shorter is as if it went on with zeros. 0 at a
            position where the teacher gives no token any mass.

    Raises:
        ValueError: other numbers of positions.
    """
    if len(teacher_logits) != len(student_logits):
        raise ValueError(f"teacher and student speak of {len(teacher_logits)} and {len(student_logits)} positions")
    return rowwise(_rule, student_logits, teacher_logits)


def _rule(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, Slope]:
    speaks = ~teacher.isneginf().all(-1, keepdim=True)
    p = upcast(teacher).masked_fill(~speaks, 0.0).softmax(-1).sort(-1, descending=True).values
    q = upcast(student).softmax(-1)
    ranked, tokens = q.sort(-1, descending=True)
    width = max(p.shape[-1], q.shape[-1])
    gap = pad(ranked, (0, width - q.shape[-1])) - pad(p, (0, width - p.shape[-1]))

    def gradient() -> torch.Tensor:
        side = torch.empty_like(q).scatter_(-1, tokens, gap[:, : q.shape[-1]].sign()).mul_(speaks)
        return side.sub_((q * side).sum(-1, keepdim=True)).mul_(q)

    return gap.abs().sum(-1).mul_(speaks[:, 0]), gradient
