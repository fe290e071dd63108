"""From the log-probabilities of a chunk of positions to the statistics that findings are made of. Pure torch; called chunk by chunk."""

from __future__ import annotations

import torch

__all__ = ["CURVE", "GROUPS", "HeadGradient", "compare_positions", "curve_ks", "describe_positions", "top_k_of"]

_HEAD_MASS, _RARE = 0.99, 0.01
GROUPS = 8  # of texts, whose gradients are kept apart, so that their noise can be told from their direction
_BUCKETS = 1024  # a larger vocabulary is folded into as many
CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)


def curve_ks(vocabulary: int) -> list[int]:
    """The k at which a curve over the teacher's top-k tokens is taken, the whole vocabulary last."""
    return [*(k for k in CURVE if k < vocabulary), vocabulary]


def top_k_of(vocabulary: int) -> int:
    """How many of a model's first choices are compared: 10, but at most a tenth of the vocabulary."""
    return max(1, min(10, vocabulary // 10))


def describe_positions(logprobs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """What one model says: `logprob` of the target, `entropy`, and whether the target is the `likeliest` token, [N] each, from [N, V]."""
    p = logprobs.exp()
    return {
        "logprob": logprobs.gather(-1, targets[:, None]).squeeze(-1),
        "entropy": -(p * logprobs.masked_fill(p == 0, 0.0)).sum(-1),
        "likeliest": (logprobs.argmax(-1) == targets).to(logprobs.dtype),
    }


def compare_positions(
    *, teacher_logprobs: torch.Tensor, student_logprobs: torch.Tensor, targets: torch.Tensor, top_k: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Teacher p against student q at N positions.

    Args:
        teacher_logprobs, student_logprobs: [N, V], normalised. −∞ is a token without mass.
        targets: [N], the tokens that stand there.

    Returns:
        The numbers of `diagnosis.evidence.Compared`, [N] each and `curve` [N, K]; and the likeliest token of teacher and student, [N] each.
    """
    log_p, order = teacher_logprobs.sort(dim=-1, descending=True, stable=True)
    log_q = student_logprobs.gather(-1, order)
    p, q = log_p.exp(), log_q.exp()
    pointwise = p * (log_p - log_q).masked_fill_(p == 0, 0.0)
    integrand = (pointwise - p + q).clamp_min_(0.0)
    reverse = q * (log_q - log_p).masked_fill_(q == 0, 0.0)
    magnitude, gradient = pointwise.abs(), (q - p).abs_()
    tail = _outside_head(p)
    rare = p < _RARE
    chosen = log_q.topk(top_k, dim=-1).indices  # columns in the teacher's order
    favourites = order.gather(-1, chosen)
    ks = torch.tensor(curve_ks(p.shape[-1]), device=p.device) - 1
    numbers = {
        "forward_kl": pointwise.sum(-1),
        "reverse_kl": reverse.sum(-1),
        "magnitude": magnitude.sum(-1),
        "tail_kl": _within(integrand, tail),
        "tail_magnitude": _within(magnitude, tail),
        "teacher_tail": _within(p, tail),
        "student_tail": _within(q, tail),
        "rare_magnitude": _within(magnitude, rare),
        "rare_reverse_kl": _within((reverse - q + p).clamp_min(0.0), rare),
        "gradient_l1": gradient.sum(-1),
        "gradient_l2": gradient.square().sum(-1),
        "tail_gradient_l1": _within(gradient, tail),
        "tail_gradient_l2": _within(gradient.square(), tail),
        "head_size": (~tail).sum(-1).to(p.dtype),
        "second_moment": (2 * log_q - log_p).masked_fill(q == 0, float("-inf")).logsumexp(-1),
        "overlap": (chosen < top_k).to(p.dtype).mean(-1),
        "covered": p.gather(-1, chosen).sum(-1),
        "teachable": (favourites == targets[:, None]).any(-1).to(p.dtype),
        "curve": integrand.cumsum(-1).index_select(-1, ks),
    }
    return numbers, order[:, 0], favourites[:, 0]


def _outside_head(ranked: torch.Tensor) -> torch.Tensor:
    """Which of a position's tokens, ranked by mass, lie outside the smallest set that holds 99 % of it; [N, V] booleans."""
    return ranked.cumsum(-1) - ranked >= _HEAD_MASS


def _within(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(~where, 0.0).sum(-1)


class HeadGradient:
    """Collects the gradient of KL(p‖q) of the student's output head W [V, D], chunk after chunk, in memory that does not grow with V.

    g = q − p at a position with hidden state h gives W the gradient g ⊗ h and h the gradient Wᵀg. The former is summed by group of texts.
    Of more than 1,024 tokens each is added to one of 1,024 rows with a random sign (a count sketch: Charikar et al., 2002),
    which leaves inner products unbiased; a cosine is off by about √(2/1024) = .04 at most.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        vocabulary, width = weight.shape
        self.weight = weight
        folded = vocabulary > _BUCKETS
        random = torch.Generator().manual_seed(0)
        self.bucket = torch.randint(_BUCKETS, (vocabulary,), generator=random).to(weight.device) if folded else None
        self.sign = (torch.randint(2, (vocabulary,), generator=random) * 2 - 1).to(weight.device) if folded else None
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.groups = torch.zeros(GROUPS, _BUCKETS if folded else vocabulary, width, device=weight.device, dtype=dtype)

    def add(
        self, *, teacher_logprobs: torch.Tensor, student_logprobs: torch.Tensor, states: torch.Tensor, texts: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Add N positions.

        Args:
            teacher_logprobs, student_logprobs: [N, V], normalised.
            states: [N, D], hidden states of the student.
            texts: [N], the number of the text of each position.

        Returns:
            hidden_l2, tail_hidden_l2: [N], as in `diagnosis.evidence.HeadGradients`.
        """
        p = teacher_logprobs.exp()
        gradient = student_logprobs.exp() - p
        ranked, order = p.sort(dim=-1, descending=True, stable=True)
        tail = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, order, _outside_head(ranked))
        folded = self._folded(gradient)
        for group in set(texts.remainder(GROUPS).tolist()):
            rows = texts.remainder(GROUPS) == group
            self.groups[group] += (folded[rows].T.to(states.dtype) @ states[rows]).to(self.groups.dtype)
        return {"hidden_l2": self._hidden(gradient), "tail_hidden_l2": self._hidden(gradient.masked_fill(~tail, 0.0))}

    def _folded(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.bucket is None or self.sign is None:
            return gradient
        return gradient.new_zeros(len(gradient), _BUCKETS).index_add_(1, self.bucket, gradient * self.sign)

    def _hidden(self, gradient: torch.Tensor) -> torch.Tensor:
        """‖Wᵀ gradient‖², [N], in the head's dtype."""
        reached: torch.Tensor = gradient.to(self.weight.dtype) @ self.weight
        return reached.to(gradient.dtype).square().sum(-1)
