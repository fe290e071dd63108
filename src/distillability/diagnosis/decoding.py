"""Local decoding degradation: given a right beginning, the student still goes wrong token by token. Measures are ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distillability.diagnosis.estimates import mean, paired_change, ratio_of_sums, share, sums_by_text
from distillability.diagnosis.evidence import Answers, Evidence, TokenStats
from distillability.diagnosis.findings import Finding, Rule
from distillability.diagnosis.positions import early_and_late, profile

__all__ = ["MEASURES", "accuracy_by_place", "nll_growth", "repetition", "sampling_loss"]

_TRAP = "local decoding degradation"
_LEAST = 20

_PLACE = Rule(
    _TRAP,
    "misplaced_tokens",
    "tokens of right texts that are not the student's first choice, student minus teacher",
    0.1,
    "above",
    "own: a token in ten, given that all before it are right",
    "more student steps or queries; a more distillable teacher (`knob` above 0)",
)


def accuracy_by_place(evidence: Evidence) -> Finding:
    """Share of tokens of the teacher's right texts that are not the student's first choice, minus the same of the teacher itself."""
    traced = evidence.on_teacher
    right = np.array(traced.right, dtype=bool)
    if right.sum() < _LEAST:
        return _PLACE.missing(f"the teacher gave {int(right.sum())} right texts, and {_LEAST} are needed", int(right.sum()))
    parts = {}
    for role in ("student", "teacher"):
        stats = traced.stats(role)
        misses, counts = (sums_by_text(one, stats.text, len(right))[right] for one in (1 - stats.likeliest, np.ones_like(stats.likeliest)))
        parts[role] = (misses, counts)
    student, teacher = (ratio_of_sums(*parts[role]) for role in ("student", "teacher"))
    misses = [parts[role][0] / np.maximum(parts[role][1], 1) for role in ("student", "teacher")]
    estimate = mean(misses[0] - misses[1], n_skipped=traced.n_skipped)
    curves = {
        f"{name}_{role}": _profile_of_right(traced.stats(role), right, name)
        for name in ("nll", "accuracy")
        for role in ("student", "teacher")
    }
    sentence = (
        f"Given a right beginning, {student.value or 0:.1%} of the next tokens are not the student's first choice "
        f"({teacher.value or 0:.1%} for the teacher)."
    )
    return _PLACE.found(estimate, lambda _: sentence, curves=curves)


_GROWTH = Rule(
    _TRAP,
    "nll_growth",
    "growth of −log q along right texts, student minus teacher, nats a token",
    0.2,
    "above",
    "own: late tokens are e^0.2 = 1.2 times less likely than early ones, beyond what the teacher shows",
    "`on_policy_share` above 0; shorter texts",
)


def nll_growth(evidence: Evidence) -> Finding:
    """Growth of the student's −log q from the first to the last third of the teacher's right texts, minus the teacher's own."""
    traced = evidence.on_teacher
    right = np.array(traced.right, dtype=bool)
    grown = []
    for stats in (traced.student, traced.teacher):
        kept = _only(stats, right)
        early, late = early_and_late(kept, -kept.logprob, len(right))
        grown.append(late - early)
    if min(map(len, grown)) < _LEAST or len(grown[0]) != len(grown[1]):
        return _GROWTH.missing(f"fewer than {_LEAST} right texts of the teacher are long enough for both models")
    estimate = mean(grown[0] - grown[1])
    return _GROWTH.found(
        estimate, lambda value: f"From early to late in a right text the student loses {value:+.2f} nats a token more than the teacher."
    )


_REPEATS = Rule(
    _TRAP,
    "repetition",
    "texts that go round in circles or never end",
    0.05,
    "above",
    "own: one text in twenty",
    "`on_policy_share` above 0; no `plain_greedy` source",
)


def repetition(evidence: Evidence) -> Finding:
    """Share of the student's greedy texts that repeat themselves or are cut off."""
    answers = _student(evidence)
    if answers is None:
        return _REPEATS.missing("no answers of a student were collected")
    estimate = share(((answers.repeated + answers.truncated) > 0).astype(float), least=_LEAST)
    sentence = f"{answers.repeated.mean():.0%} of the student's texts repeat themselves, {answers.truncated.mean():.0%} are cut off."
    return _REPEATS.found(estimate, lambda _: sentence)


_SAMPLING = Rule(
    _TRAP,
    "sampling_loss",
    "accuracy lost by sampling instead of the likeliest token",
    0.1,
    "above",
    "own: one answer in ten",
    "decode greedily; `reverse_kl`, which keeps mass off what the teacher would not say",
)


def sampling_loss(evidence: Evidence) -> Finding:
    """Share right of greedy answers minus that of sampled ones, paired by prompt."""
    answers = _student(evidence)
    if answers is None:
        return _SAMPLING.missing("no answers of a student were collected")
    estimate = paired_change(answers.right, answers.right_sampled, least=_LEAST)
    sentence = f"Greedy answers are right {answers.right.mean():.0%} of the time, sampled ones {answers.right_sampled.mean():.0%}."
    return _SAMPLING.found(estimate, lambda _: sentence)


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (accuracy_by_place, nll_growth, repetition, sampling_loss)


def _student(evidence: Evidence) -> Answers | None:
    return evidence.answers.get("student")


def _only(stats: TokenStats, wanted: np.ndarray) -> TokenStats:
    """The statistics of the wanted texts alone."""
    rows = wanted[stats.text]
    return TokenStats(**{name: values[rows] for name, values in vars(stats).items()})


def _profile_of_right(stats: TokenStats, right: np.ndarray, name: str) -> list[dict[str, float]]:
    kept = _only(stats, right)
    return profile(kept.place, -kept.logprob if name == "nll" else kept.likeliest)
