"""Overconfident hallucination: the student is as sure of its wrong answers as of its right ones. Measures are standard, thresholds ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillability.diagnosis.estimates import Floats, bootstrapped, mean, reflected, share
from distillability.diagnosis.evidence import Answers, Evidence
from distillability.diagnosis.findings import Finding, Rule
from distillability.ops.statistics import auc

__all__ = [
    "MEASURES",
    "area_under_curve",
    "brier",
    "calibration_error",
    "confidence_when_wrong",
    "expected_calibration_error",
    "separation",
]

_TRAP = "overconfident hallucination"
_BINS = 10
_LEAST = 20
_LEAST_OF_EACH = 10
_REMEDY = "`jsd` or `on_policy_share` above 0 in place of one-sided imitation; a more distillable teacher (`knob` above 0)"

_WRONG = Rule(
    _TRAP,
    "confidence_when_wrong",
    "mean confidence in wrong answers",
    0.5,
    "above",
    "own: the student would rather bet on a wrong answer than against it",
    _REMEDY,
)


def confidence_when_wrong(evidence: Evidence) -> Finding:
    """Mean probability that the student gives its answer where that is wrong."""
    known = _known(evidence)
    if known is None:
        return _WRONG.missing("no answers of a student were collected")
    answers, skipped = known
    wrong = answers[answers[:, 0] < 1]
    if not len(wrong):
        return _WRONG.missing("every answer is right", len(answers))
    estimate = share(wrong[:, 1], n_skipped=skipped, least=_LEAST)
    right = answers[answers[:, 0] == 1]
    told = f" (and {right[:, 1].mean():.2f} of its right ones)" if len(right) else ""
    return _WRONG.found(estimate, lambda value: f"The student is sure of its wrong answers with probability {value:.2f}{told}.")


_ECE = Rule(
    _TRAP,
    "calibration_error",
    "expected calibration error",
    0.2,
    "above",
    "own: confidence is a fifth off on average",
    _REMEDY,
)


def calibration_error(evidence: Evidence) -> Finding:
    """|share right − mean confidence| over ten bins of as many answers each (Naeini et al., 2015; equal mass), and the diagram."""
    known = _known(evidence)
    least = _LEAST_OF_EACH * _BINS
    if known is None or len(known[0]) < least:
        n = 0 if known is None else len(known[0])
        return _ECE.missing(f"{n} complete answers of a student, and at least {least} are needed, {_LEAST_OF_EACH} a bin", n)
    answers, skipped = known
    estimate = reflected(bootstrapped(expected_calibration_error, answers[:, 0], answers[:, 1], n_skipped=skipped))
    confidence, right = answers[:, 1].mean(), answers[:, 0].mean()
    sentence = f"The student is right {100 * right:.0f} % of the time and {100 * confidence:.0f} % sure on average."
    return _ECE.found(estimate, lambda _: sentence, diagram=_diagram(answers[:, 0], answers[:, 1]))


_BRIER = Rule(_TRAP, "brier", "Brier score", 0.25, "above", "what always saying one half scores", _REMEDY)


def brier(evidence: Evidence) -> Finding:
    """Mean (confidence − right)²."""
    known = _known(evidence)
    if known is None:
        return _BRIER.missing("no answers of a student were collected")
    answers, skipped = known
    estimate = mean((answers[:, 1] - answers[:, 0]) ** 2, n_skipped=skipped, least=_LEAST)
    return _BRIER.found(
        estimate, lambda value: f"Confidence misses the truth by {value:.2f} squared; always saying one half misses it by 0.25."
    )


_AUROC = Rule(
    _TRAP,
    "confidence_auroc",
    "AUROC of confidence, right against wrong",
    0.7,
    "below",
    "own: a wrong answer is the more confident one in three pairs of ten",
    _REMEDY,
)


def separation(evidence: Evidence) -> Finding:
    """Probability that a right answer is given with more confidence than a wrong one, ties ½."""
    known = _known(evidence)
    if known is None:
        return _AUROC.missing("no answers of a student were collected")
    answers, skipped = known
    n_right = int(answers[:, 0].sum())
    if min(n_right, len(answers) - n_right) < _LEAST_OF_EACH:
        return _AUROC.missing(
            f"{n_right} right and {len(answers) - n_right} wrong answers, and {_LEAST_OF_EACH} of each are needed", len(answers)
        )
    estimate = bootstrapped(area_under_curve, answers[:, 0], answers[:, 1], n_skipped=skipped)
    return _AUROC.found(estimate, lambda value: f"Confidence tells right from wrong in {value:.0%} of the pairs; a coin would in half.")


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (confidence_when_wrong, calibration_error, brier, separation)


def expected_calibration_error(right: Floats, confidence: Floats) -> float:
    """Σ_b (n_b / n) |mean right − mean confidence| over `_BINS` bins of equal mass."""
    return sum(len(rows) * abs(float((right[rows] - confidence[rows]).mean())) for rows in _bins(confidence)) / len(right)


def area_under_curve(right: Floats, confidence: Floats) -> float | None:
    """P(a right answer's confidence exceeds a wrong one's), ties ½; None where all are right or all are wrong."""
    positive = right == 1
    return auc(torch.from_numpy(confidence[positive]), torch.from_numpy(confidence[~positive]))


def _bins(confidence: Floats) -> list[NDArray[np.int64]]:
    """Rows by rising confidence, in bins as even as can be; what is equal stays together."""
    edges = np.quantile(confidence, np.arange(1, _BINS) / _BINS)
    number = np.searchsorted(edges, confidence, side="right")
    return [np.flatnonzero(number == bin_) for bin_ in np.unique(number)]


def _diagram(right: Floats, confidence: Floats) -> list[dict[str, Any]]:
    lines = []
    for rows in _bins(confidence):
        found = share(right[rows])
        line = {"confidence": float(confidence[rows].mean()), "right": found.value, "low": found.low, "high": found.high, "n": found.n}
        lines.append(line)
    return lines


def _known(evidence: Evidence) -> tuple[Floats, int] | None:
    """Columns (right, confidence) of the complete answers [n, 2], and how many were cut off."""
    answers: Answers | None = evidence.answers.get("student")
    if answers is None:
        return None
    complete = np.isfinite(answers.confidence)
    return np.stack([answers.right[complete], answers.confidence[complete]], axis=1), int((~complete).sum())
