"""What a diagnosis rests on: what teacher, student and texts show at each position, and how they answered.

Arrays are position-wise sufficient statistics, all texts one after another; nothing here grows with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distillability.diagnosis.estimates import Floats

__all__ = [
    "Answers",
    "Compared",
    "Evidence",
    "HeadGradients",
    "Integers",
    "Probed",
    "Recoveries",
    "Role",
    "TokenStats",
    "TracePair",
    "Traced",
    "WeightedSamples",
]

Integers = NDArray[np.int64]
Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class TokenStats:
    """What one model says at each position of some texts, under its own tokenizer: arrays [N].

    text: the number of the text. place: position over length, in [0, 1). logprob: log P of the token that stands there, in nats.
    entropy: of the next-token distribution, in nats. likeliest: 1 where the token that stands there is the model's first choice.
    """

    text: Integers
    place: Floats
    logprob: Floats
    entropy: Floats
    likeliest: Floats


@dataclass(frozen=True)
class Compared:
    """Teacher p and student q at the same positions of the same texts, over one vocabulary: arrays [N], `curve` [N, K].

    The *head* of a position is the smallest set of tokens that holds 99 % of the teacher's mass; *rare* tokens are those of less than 1 %.
    The integrand of KL(p‖q) is p log(p/q) − p + q, which is never negative and has the same sum.

    Attributes:
        text, place: as in `TokenStats`.
        token, teacher_choice, student_choice: the token that stands there, and the likeliest of either.
        forward_kl, reverse_kl: KL(p‖q), KL(q‖p), in nats.
        magnitude: Σ |p log(p/q)|.
        tail_kl, tail_magnitude, teacher_tail, student_tail: integrand, |p log(p/q)|, p and q summed outside the head.
        rare_magnitude: |p log(p/q)| summed over rare tokens.
        rare_reverse_kl: q log(q/p) − q + p summed over rare tokens.
        gradient_l1, gradient_l2: Σ |q − p| and Σ (q − p)², the gradient of KL(p‖q) in logit space; tail_…: outside the head.
        head_size: tokens of the head.
        second_moment: log Σ q²/p, in nats.
        overlap: shared share of the top-k tokens. covered: p summed over the student's top-k. teachable: 1 where the token that stands
            there is among them.
        curve: the integrand summed over the teacher's top-k tokens, for the k of `Evidence.curve_k`.
    """

    text: Integers
    place: Floats
    token: Sequence[str]
    teacher_choice: Sequence[str]
    student_choice: Sequence[str]
    forward_kl: Floats
    reverse_kl: Floats
    magnitude: Floats
    tail_kl: Floats
    tail_magnitude: Floats
    teacher_tail: Floats
    student_tail: Floats
    rare_magnitude: Floats
    rare_reverse_kl: Floats
    gradient_l1: Floats
    gradient_l2: Floats
    tail_gradient_l1: Floats
    tail_gradient_l2: Floats
    head_size: Floats
    second_moment: Floats
    overlap: Floats
    covered: Floats
    teachable: Floats
    curve: Floats

    @classmethod
    def numbers(cls) -> list[str]:
        """Names of the fields that are measured: all but where a position is and what stands there."""
        return [one.name for one in fields(cls) if one.name not in ("text", "place", "token", "teacher_choice", "student_choice")]


@dataclass(frozen=True)
class HeadGradients:
    """The gradient of KL(p‖q) where it leaves the student's logits, g = q − p at a position with hidden state h and output head W [V, D].

    Attributes:
        groups: [G, …], Σ g ⊗ h over the positions of each group of texts: the gradient of W, of a large vocabulary a sketch that keeps
            inner products (diagnosis.signals.HeadGradient).
        hidden_l2, tail_hidden_l2: [N], ‖Wᵀg‖² of a position, what reaches h; and of the part of g outside the teacher's head.
    """

    groups: Floats
    hidden_l2: Floats
    tail_hidden_l2: Floats


@dataclass(frozen=True)
class Traced:
    """Texts of one writer, one a prompt, and what both models say along them.

    compared is None where the vocabularies differ, gradients there and where the student's output head cannot be applied by itself.
    n_skipped: texts that a tokenizer does not give back, or too long for a model.
    """

    texts: Sequence[str]
    right: Sequence[bool]
    truncated: Sequence[bool]
    teacher: TokenStats
    student: TokenStats
    compared: Compared | None
    n_skipped: int = 0
    gradients: HeadGradients | None = None

    def stats(self, role: Role) -> TokenStats:
        return self.teacher if role == "teacher" else self.student

    @property
    def n_bytes(self) -> Floats:
        return np.array([max(1, len(text.encode())) for text in self.texts], dtype=np.float64)


@dataclass(frozen=True)
class WeightedSamples:
    """log π_S(y) − log π_T(y) of several samples of the teacher for each of a few prompts; a list a prompt."""

    log_weights: Sequence[Floats]
    n_skipped: int = 0


@dataclass(frozen=True)
class TracePair:
    """A right and a wrong text of one prompt, as log P a byte under either model.

    source: how the wrong one came about.
    """

    source: str
    prompt: int
    teacher_right: float
    teacher_wrong: float
    student_right: float
    student_wrong: float


@dataclass(frozen=True)
class Answers:
    """How one model answers prompts: arrays [N] over the same prompts.

    confidence: the probability of the answer, given the model's own steps where the task can tell them apart, else of the whole text;
    nan where the text was cut off. right_sampled: of one sampled answer a prompt.
    """

    right: Floats
    confidence: Floats
    truncated: Floats
    repeated: Floats
    right_sampled: Floats


@dataclass(frozen=True)
class Recoveries:
    """How one model goes on after a wrong step planted in a right text: arrays [N], the same planted texts for all models."""

    recovered: Floats
    truncated: Floats
    repeated: Floats


@dataclass(frozen=True)
class Probed:
    """How a probe answers after a few steps on texts that a student would learn from: arrays [N], one sampled answer a prompt.

    who: `student`, or `proxy` where that stands in for it. steps, texts: how much it learnt from.
    """

    who: str
    steps: int
    texts: int
    right: Floats
    truncated: Floats


@dataclass(frozen=True)
class Evidence:
    """All that is known of one teacher, one student and one task. What was not collected is None, or says why in `reasons`.

    Attributes:
        on_teacher: texts of the teacher; on_student: texts of the student.
        curve_k: the k of `Compared.curve`, the whole vocabulary last.
        top_k: the k of overlap, coverage and teachability.
        probed: what a probe answers that learnt from the teacher's texts.
        reasons: why something is missing: `compared` (the vocabularies differ), `recoveries`, `pairs`, `probed`.
    """

    on_teacher: Traced
    on_student: Traced
    curve_k: Sequence[int]
    top_k: int
    weights: WeightedSamples
    pairs: Sequence[TracePair]
    answers: dict[Role, Answers] = field(default_factory=dict)
    recoveries: dict[Role, Recoveries] = field(default_factory=dict)
    probed: Probed | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def reason(self, key: str) -> str:
        return self.reasons.get(key, "not collected")
