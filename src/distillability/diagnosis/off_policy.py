"""Off-policy instability: what the teacher says along its own texts is not what it says along the student's.

Measures are ours, after importance sampling (Owen, 2013) and Pareto-smoothed importance sampling (Vehtari et al., 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import logsumexp, stdtrit

from distillability.diagnosis.estimates import Estimate, Floats, mean, missing
from distillability.diagnosis.evidence import Evidence, TokenStats, Traced
from distillability.diagnosis.findings import Finding, Rule
from distillability.diagnosis.positions import early_and_late, over_positions, profile

__all__ = [
    "MEASURES",
    "cosine_of_groups",
    "drift",
    "drift_slope",
    "effective_samples",
    "gradient_cosine",
    "kl_drift",
    "log_effective_share",
    "pareto_k",
    "pareto_threshold",
    "second_moment",
    "tail_index",
]

_TRAP = "off-policy instability"
_LEAST = 25  # weights of one prompt; a tail of fewer says nothing
_LEAST_TAIL = 5
_TOO_FEW = f"no prompt has {_LEAST} samples that both models can score"
_ON_POLICY = "`on_policy_share` above 0 in the arm: learn from what the teacher says along the student's own texts"

_DRIFT = Rule(
    _TRAP,
    "teacher_nll_drift",
    "teacher's NLL on student texts minus on its own, nats a token",
    0.5,
    "above",
    "own: the student's tokens are e^0.5 = 1.6 times less likely to the teacher than its own",
    _ON_POLICY,
)


def drift(evidence: Evidence) -> Finding:
    """Mean −log p of the student's tokens minus that of the teacher's own; the teacher's tokenizer on both."""
    estimate = _difference(*(_by_text(traced, -traced.teacher.logprob) for traced in (evidence.on_student, evidence.on_teacher)))
    curves = {
        f"{name}_{where}": profile(traced.teacher.place, values(traced.teacher))
        for name, values in (("nll", _surprise), ("entropy", _entropy))
        for where, traced in _both(evidence)
    }
    for where, traced in _both(evidence):
        if traced.compared is not None:
            curves[f"kl_{where}"] = profile(traced.compared.place, traced.compared.forward_kl)
    told = "nats more surprising than one of its own"
    return _DRIFT.found(estimate, lambda value: f"To the teacher a token of the student's texts is {value:+.2f} {told}.", curves=curves)


_SLOPE = Rule(
    _TRAP,
    "drift_slope",
    "how that grows from the first to the last third of a text, nats a token",
    0.5,
    "above",
    "own: as for the drift itself",
    f"{_ON_POLICY}; shorter texts",
)


def drift_slope(evidence: Evidence) -> Finding:
    """Growth of −log p from the first to the last third of the student's texts, minus the same on the teacher's."""
    grown = []
    for _, traced in _both(evidence):
        early, late = early_and_late(traced.teacher, -traced.teacher.logprob, len(traced.texts))
        grown.append(late - early)
    estimate = _difference(grown[1], grown[0])
    return _SLOPE.found(
        estimate, lambda value: f"From the first to the last third of a text the drift changes by {value:+.2f} nats a token."
    )


_KL_DRIFT = Rule(
    _TRAP,
    "kl_drift",
    "KL(p‖q) on student texts minus on teacher texts, nats a token",
    0.5,
    "above",
    "own: as for the drift itself",
    _ON_POLICY,
)


def kl_drift(evidence: Evidence) -> Finding:
    """Mean KL(teacher‖student) along the student's texts minus along the teacher's."""
    parts = []
    for _, traced in _both(evidence):
        if traced.compared is None:
            return _KL_DRIFT.missing(evidence.reason("compared"), len(traced.texts))
        parts.append(_means(traced.compared.text, traced.compared.forward_kl, len(traced.texts)))
    estimate = _difference(parts[1], parts[0])
    return _KL_DRIFT.found(
        estimate, lambda value: f"Led by its own texts, the student differs from the teacher by {value:+.2f} nats a token more."
    )


_COSINE = Rule(
    _TRAP,
    "gradient_cosine",
    "cosine of the gradients along teacher and student texts",
    None,
    "below",
    "shown only: low too where little is left to learn, and near 1 where one error, as a noisy teacher's, is the same everywhere",
    _ON_POLICY,
)


def gradient_cosine(evidence: Evidence) -> Finding:
    """Cosine between the gradients of KL(p‖q) of the student's output head along the teacher's and along the student's texts.

    Inner products are means over pairs of different groups of texts, so that noise, which shrinks a plain cosine, cancels; the interval
    is a jackknife over groups. Missing where a gradient cannot be told from its noise.
    """
    sides = [traced.gradients for traced in (evidence.on_teacher, evidence.on_student)]
    known = [side.groups.reshape(len(side.groups), -1) for side in sides if side is not None]
    if len(known) < len(sides):
        return _COSINE.missing(evidence.reason("compared" if evidence.on_teacher.compared is None else "gradients"))
    return _COSINE.found(
        cosine_of_groups(*known),
        lambda value: f"A step along the teacher's texts and one along the student's own point the same way to {value:.2f} of 1.",
    )


_SECOND_MOMENT = Rule(
    _TRAP,
    "second_moment",
    "log Σ q²/p on student texts, nats a token",
    1.0,
    "above",
    "own: between the lab's students that learnt everything (.4 to .5) and those that did not (1.4 to 2.3)",
    f"{_ON_POLICY}; or `reverse_kl`",
)


def second_moment(evidence: Evidence) -> Finding:
    """Mean log Σ q²/p, the growth a token of the second moment of importance weights from teacher to student; 0 where p = q."""
    estimate = over_positions(evidence, evidence.on_student, lambda compared: compared.second_moment)
    return _SECOND_MOMENT.found(estimate, lambda value: f"Each token multiplies the second moment of importance weights by e^{value:.2f}.")


_EFFECTIVE = Rule(
    _TRAP,
    "log_effective_share",
    "log of the effective share of teacher samples",
    float(np.log(0.1)),
    "below",
    "own: under a tenth of the teacher's samples speak for the student's distribution",
    _ON_POLICY,
)


def effective_samples(evidence: Evidence) -> Finding:
    """Mean over prompts of log(ESS / n) with weights π_S(y)/π_T(y); both models read the text with their own tokenizer."""
    groups = evidence.weights.log_weights
    values = [log_effective_share(weights) for weights in groups if len(weights) >= _LEAST]
    estimate = mean(values, n_skipped=len(groups) - len(values)) if values else missing(_TOO_FEW, n_skipped=len(groups))
    return _EFFECTIVE.found(estimate, lambda value: f"Of a hundred samples of the teacher {100 * np.exp(value):.0f} count for the student.")


_PARETO = Rule(
    _TRAP,
    "pareto_k",
    "Pareto k̂ of the sequence weights",
    0.7,
    "above",
    "Vehtari et al., 2024: above min(1 − 1/log10 S, 0.7), S weights, importance sampling estimates are not to be trusted",
    _ON_POLICY,
)


def pareto_k(evidence: Evidence) -> Finding:
    """Mean over prompts of the shape of a generalised Pareto distribution fitted to the largest weights.

    Its threshold is the mean, over the same prompts, of that for their number of weights.
    """
    groups = evidence.weights.log_weights
    found = [(shape, len(weights)) for weights in groups if (shape := tail_index(weights)) is not None]
    if not found:
        reason = f"no prompt has {_LEAST} weights of which the largest {_LEAST_TAIL} differ"
        return _PARETO.found(missing(reason, n_skipped=len(groups)), str)
    estimate = mean([shape for shape, _ in found], n_skipped=len(groups) - len(found))
    rule = replace(_PARETO, threshold=float(np.mean([pareto_threshold(size) for _, size in found])))
    return rule.found(estimate, lambda value: f"The tail of the sequence weights has k̂ = {value:.2f}; above 1 it has no mean.")


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (
    drift,
    drift_slope,
    kl_drift,
    gradient_cosine,
    second_moment,
    effective_samples,
    pareto_k,
)


def cosine_of_groups(first: Floats, second: Floats) -> Estimate:
    """Cosine between the directions of two gradients, each given as the sums of independent groups [G, M]; pairs of one group take no part.

    Groups are matched: group number i of both rests on the same prompts. Missing where a squared norm, estimated without its noise, is not
    above 0 for all groups and for all but any one.
    """
    groups = len(first)
    products = {"aa": first @ first.T, "bb": second @ second.T, "ab": first @ second.T}

    def without(left_out: int | None) -> float | None:
        kept = [group for group in range(groups) if group != left_out]
        between = ~np.eye(len(kept), dtype=bool)
        aa, bb, ab = (float(products[key][np.ix_(kept, kept)][between].mean()) for key in ("aa", "bb", "ab"))
        return ab / float(np.sqrt(aa * bb)) if aa > 0 and bb > 0 else None

    value, others = without(None), [without(group) for group in range(groups)]
    if value is None or None in others:
        return missing("the gradient is no larger than its noise", groups)
    spread = np.array(others, dtype=np.float64)
    error = float(np.sqrt((groups - 1) / groups * np.sum((spread - spread.mean()) ** 2)))
    reach = float(stdtrit(groups - 1, 0.975)) * error
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), "jackknife over groups of texts", groups)


def log_effective_share(log_weights: Floats) -> float:
    """log(ESS / n), ESS = (Σ w)² / Σ w²; 0 where all weights are equal."""
    return float(2 * logsumexp(log_weights) - logsumexp(2 * log_weights) - np.log(len(log_weights)))


def tail_index(log_weights: Floats) -> float | None:
    """k̂ of the largest min(n/5, 3√n) weights, with the prior of PSIS; None under 25 weights or without a tail of five different ones."""
    n = len(log_weights)
    if n < _LEAST:
        return None
    ordered = np.sort(log_weights)
    size = int(min(n / 5, 3 * np.sqrt(n)))
    scaled = np.exp(ordered - ordered[-1])
    excess = scaled[-size:] - scaled[-size - 1]
    excess = excess[excess > 0]
    if len(np.unique(excess)) < _LEAST_TAIL:
        return None
    k = _generalised_pareto_shape(excess)
    return float((len(excess) * k + 10 * 0.5) / (len(excess) + 10))


def pareto_threshold(size: int) -> float:
    """min(1 − 1/log₁₀ S, 0.7): the k̂ above which S = `size` weights are too few for the smoothed estimate (Vehtari et al., 2024)."""
    return float(min(1 - 1 / np.log10(size), 0.7))


def _generalised_pareto_shape(excess: Floats) -> float:
    """Shape k of ordered, positive excesses: the profile likelihood averaged over a grid of scales (Zhang and Stephens, 2009)."""
    n = len(excess)
    grid = 30 + int(np.sqrt(n))
    steps = np.arange(1, grid + 1)
    theta = 1 / excess[-1] + (1 - np.sqrt(grid / (steps - 0.5))) / 3 / excess[max(int(n / 4 + 0.5) - 1, 0)]
    shapes = np.log1p(-theta[:, None] * excess).mean(1)
    likelihood = n * (np.log(-theta / shapes) - shapes - 1)
    weights = np.exp(likelihood - logsumexp(likelihood))
    return float(np.log1p(-np.sum(theta * weights) * excess).mean())


def _both(evidence: Evidence) -> tuple[tuple[str, Traced], tuple[str, Traced]]:
    return ("on_teacher", evidence.on_teacher), ("on_student", evidence.on_student)


def _surprise(stats: TokenStats) -> Floats:
    return -stats.logprob


def _entropy(stats: TokenStats) -> Floats:
    return stats.entropy


def _by_text(traced: Traced, values: Floats) -> Floats:
    return _means(traced.teacher.text, values, len(traced.texts))


def _means(text: np.ndarray, values: Floats, n_texts: int) -> Floats:
    """Mean of each text that has positions."""
    counts = np.bincount(text, minlength=n_texts)
    sums = np.bincount(text, weights=values, minlength=n_texts)
    return sums[counts > 0] / counts[counts > 0]


def _difference(first: Floats, second: Floats) -> Estimate:
    """Mean of `first` minus mean of `second`, independent, with Welch's interval by the smaller number of texts."""
    one, other = mean(first), mean(second)
    if one.value is None or other.value is None:
        return missing(one.reason or other.reason or "no texts")
    value, n = one.value - other.value, min(one.n, other.n)
    if not np.isfinite(value):
        return missing("the teacher gives no mass at all to a token that stands there", n)
    if one.high is None or other.high is None:
        return Estimate(value, method="no interval from one text", n=n)
    reach = float(np.hypot(one.high - one.value, other.high - other.value))
    return Estimate(value, value - reach, value + reach, "Student's t, two samples", n)
