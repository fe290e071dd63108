"""Naive float64 references, written from the definitions with loops; slow, and used by tests only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

__all__ = [
    "advantage_fixed_scale",
    "advantage_z_sum",
    "aggregate_proxies",
    "auc",
    "calibration_error",
    "compared",
    "cross_entropy",
    "forward_kl",
    "jsd",
    "k3",
    "log_softmax",
    "pearson",
    "reverse_kl",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "sorted_distance",
    "top_k",
    "total_variation",
    "z_scores",
]


def log_softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    total = sum(math.exp(value - top) for value in logits)
    return [value - top - math.log(total) for value in logits]


def forward_kl(teacher: Sequence[float], student: Sequence[float]) -> float:
    """KL(p‖q) = Σ p log(p / q) over the support of p, p the teacher; ∞ where q has no mass and p has."""
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    return sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if a > -math.inf)


def reverse_kl(teacher: Sequence[float], student: Sequence[float]) -> float:
    """KL(q‖p)."""
    return forward_kl(student, teacher)


def jsd(teacher: Sequence[float], student: Sequence[float], teacher_weight: float) -> float:
    """π KL(p‖m) + (1 − π) KL(q‖m), m = π p + (1 − π) q."""
    p, q = ([math.exp(value) for value in log_softmax(logits)] for logits in (teacher, student))
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = teacher_weight * a + (1 - teacher_weight) * b
        total += teacher_weight * a * math.log(a / m) if a else 0.0
        total += (1 - teacher_weight) * b * math.log(b / m) if b else 0.0
    return total


def skewed_forward_kl(teacher: Sequence[float], student: Sequence[float], skew: float) -> float:
    """KL(p‖λp + (1 − λ)q), p the teacher."""
    p, q = ([math.exp(value) for value in log_softmax(logits)] for logits in (teacher, student))
    return sum(a * math.log(a / (skew * a + (1 - skew) * b)) for a, b in zip(p, q, strict=True) if a)


def skewed_reverse_kl(teacher: Sequence[float], student: Sequence[float], skew: float) -> float:
    """KL(q‖(1 − λ)p + λq), p the teacher."""
    return skewed_forward_kl(student, teacher, skew)


def total_variation(teacher: Sequence[float], student: Sequence[float]) -> float:
    """½ Σ |p − q|."""
    return sum(abs(math.exp(a) - math.exp(b)) for a, b in zip(log_softmax(teacher), log_softmax(student), strict=True)) / 2


def sorted_distance(teacher: Sequence[float], student: Sequence[float]) -> float:
    """Σ |p − q| of the probabilities in falling order, the shorter list followed by zeros; 0 where p has no mass."""
    if all(value == -math.inf for value in teacher):
        return 0.0
    p, q = (sorted((math.exp(value) for value in log_softmax(logits)), reverse=True) for logits in (teacher, student))
    return sum(abs(a - b) for a, b in zip_longest(p, q, fillvalue=0.0))


def top_k(teacher: Sequence[float], student: Sequence[float], k: int, rest: bool) -> tuple[list[float], list[float]]:
    """Log-probabilities of both on the teacher's k likeliest tokens: on those with mass, renormalised, or beside one class for the rest."""
    best = sorted(range(len(teacher)), key=lambda token: -teacher[token])[:k]
    if not rest:
        best = [token for token in best if teacher[token] > -math.inf]
    found = []
    for logprobs in (log_softmax(teacher), log_softmax(student)):
        inside = [logprobs[token] for token in best]
        outside = sum(math.exp(value) for token, value in enumerate(logprobs) if token not in best)
        found.append([*inside, math.log(outside)] if rest else log_softmax(inside))
    return found[0], found[1]


def cross_entropy(student: Sequence[float], target: int) -> float:
    """−log q(target)."""
    return -log_softmax(student)[target]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Share of pairs in which the positive is larger, a tie counting one half."""
    return sum((a > b) + 0.5 * (a == b) for a in positive for b in negative) / (len(positive) * len(negative))


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Covariance over the product of the standard deviations."""
    n = len(first)
    mean_a, mean_b = sum(first) / n, sum(second) / n
    covariance = sum((a - mean_a) * (b - mean_b) for a, b in zip(first, second, strict=True)) / n
    deviations = [math.sqrt(sum((x - mean) ** 2 for x in xs) / n) for xs, mean in ((first, mean_a), (second, mean_b))]
    return covariance / (deviations[0] * deviations[1])


def k3(log_policy: float, log_reference: float) -> float:
    """exp(d) − d − 1, d = log π₀ − log π_θ."""
    d = log_reference - log_policy
    return math.exp(d) - d - 1


def z_scores(rewards: Sequence[float]) -> list[float]:
    """(r − mean) / (std + 1e-4), std with n − 1."""
    n = len(rewards)
    mean = sum(rewards) / n
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (n - 1))
    return [(r - mean) / (std + 1e-4) for r in rewards]


def _centred(values: Sequence[float | None]) -> list[float | None]:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [None if value is None else value - mean for value in values]


def advantage_fixed_scale(
    rewards: Sequence[float], right: Sequence[bool], compatibility: Sequence[float], knob: float, scale: float, clip: float, gate: bool
) -> list[float]:
    """One group: centre C on what counts, / s_C, clip, centre again, × knob, shrink to keep the order of right and wrong."""
    z = z_scores(rewards)
    counted = [None if math.isnan(c) or (gate and not ok) else c for c, ok in zip(compatibility, right, strict=True)]
    scaled = [None if c is None else max(-clip, min(clip, c / scale)) for c in _centred(counted)]
    part = [0.0 if c is None else c * knob for c in _centred(scaled)]
    if not gate or all(right) or not any(right):
        return [a + b for a, b in zip(z, part, strict=True)]
    worst_right = min(a for a, ok in zip(z, right, strict=True) if ok)
    best_wrong = max(a for a, ok in zip(z, right, strict=True) if not ok)
    needed = best_wrong + 0.1 * (worst_right - best_wrong)

    def keeps_order(factor: float) -> bool:
        return all(a + factor * b >= needed - 1e-12 for a, b, ok in zip(z, part, right, strict=True) if ok)

    low, high = 0.0, 1.0
    if keeps_order(1.0):
        low = 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_order(middle) else (low, middle)
    return [a + low * b for a, b in zip(z, part, strict=True)]


def advantage_z_sum(
    rewards: Sequence[float], counted: Sequence[bool], compatibility: Sequence[float], knob: float, scale: float
) -> list[float]:
    """One group in the paper's form: z(R) + knob · z(C), C among what counts; one that spreads less than a tenth of s_C is silent."""
    advantage = z_scores(rewards)
    rows = [row for row, counts in enumerate(counted) if counts and not math.isnan(compatibility[row])]
    known = [compatibility[row] for row in rows]
    if len(known) < 2 or math.sqrt(sum((c - sum(known) / len(known)) ** 2 for c in known) / (len(known) - 1)) < 0.1 * scale:
        return advantage
    for row, z in zip(rows, z_scores(known), strict=True):
        advantage[row] += knob * z
    return advantage


def aggregate_proxies(values: Sequence[Sequence[float]], counted: Sequence[bool], how: str, knob: float) -> list[float]:
    """One group: each proxy's C from its mean over what counts and it could score; then mean or least gain over those that have one."""
    centred = []
    for row in values:
        known = [c for c, counts in zip(row, counted, strict=True) if counts and not math.isnan(c)]
        mean = sum(known) / len(known) if known else 0.0
        centred.append([c - mean for c in row])
    found = []
    for column in zip(*centred, strict=True):
        known = [c for c in column if not math.isnan(c)]
        if not known:
            found.append(math.nan)
        elif how == "mean":
            found.append(sum(known) / len(known))
        else:
            found.append(min(known, key=lambda c: c if knob >= 0 else -c))
    return found


def compared(teacher: Sequence[float], student: Sequence[float], target: int, top_k: int, ks: Sequence[int]) -> dict[str, object]:
    """All that `traps.signals.compare_positions` says of one position, token by token from the definitions."""
    p, q = ([math.exp(value) for value in log_softmax(logits)] for logits in (teacher, student))
    tokens = range(len(p))

    def pointwise(a: float, b: float) -> float:
        return 0.0 if not a else math.inf if not b else a * math.log(a / b)

    ranking = sorted(tokens, key=lambda token: -p[token])
    head: list[int] = []
    while sum(p[token] for token in head) < 0.99:
        head.append(ranking[len(head)])
    tail = [token for token in tokens if token not in head]
    rare = [token for token in tokens if p[token] < 0.01]
    chosen = sorted(tokens, key=lambda token: -q[token])[:top_k]
    return {
        "forward_kl": sum(pointwise(p[t], q[t]) for t in tokens),
        "reverse_kl": sum(pointwise(q[t], p[t]) for t in tokens),
        "magnitude": sum(abs(pointwise(p[t], q[t])) for t in tokens),
        "tail_kl": sum(pointwise(p[t], q[t]) - p[t] + q[t] for t in tail),
        "tail_magnitude": sum(abs(pointwise(p[t], q[t])) for t in tail),
        "teacher_tail": sum(p[t] for t in tail),
        "student_tail": sum(q[t] for t in tail),
        "rare_magnitude": sum(abs(pointwise(p[t], q[t])) for t in rare),
        "rare_reverse_kl": sum(pointwise(q[t], p[t]) - q[t] + p[t] for t in rare),
        "gradient_l1": sum(abs(q[t] - p[t]) for t in tokens),
        "gradient_l2": sum((q[t] - p[t]) ** 2 for t in tokens),
        "tail_gradient_l1": sum(abs(q[t] - p[t]) for t in tail),
        "tail_gradient_l2": sum((q[t] - p[t]) ** 2 for t in tail),
        "head_size": float(len(head)),
        "second_moment": math.log(sum(q[t] ** 2 / p[t] for t in tokens if q[t])),
        "overlap": len(set(chosen) & set(ranking[:top_k])) / top_k,
        "covered": sum(p[t] for t in chosen),
        "teachable": float(target in chosen),
        "curve": [sum(pointwise(p[t], q[t]) - p[t] + q[t] for t in ranking[:k]) for k in ks],
    }


def calibration_error(right: Sequence[float], confidence: Sequence[float], bins: int) -> float:
    """Σ over bins of as many answers each, by rising confidence, of their share of the answers × |mean right − mean confidence|."""
    order = sorted(range(len(right)), key=lambda row: confidence[row])
    size = len(order) // bins
    total = 0.0
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        total += abs(sum(right[row] - confidence[row] for row in rows)) / len(order)
    return total
