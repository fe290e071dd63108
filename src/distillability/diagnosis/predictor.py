"""The distillability score: what students of some texts will reach, forecast from a probe of a few steps. Measure and fit are ours.

A probe is a small model that already speaks the task's language: the student itself, or the calibration's proxy where students start from
random weights. It takes a few steps on the texts that a student would learn from and answers prompts that it has not seen; the share of its
sampled answers that are right is the score. A fixed model's likelihood (C, `log_ratio`) says what the texts look like before anybody has
learnt from them; the probe says what is learnt: a mixture of ways, answers without steps, steps that nobody small can follow show in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from distillability.diagnosis.estimates import Estimate, missing, share
from distillability.diagnosis.evidence import Evidence, Probed
from distillability.diagnosis.findings import Finding, Rule

__all__ = ["FITTED", "MEASURES", "Fit", "distillability", "forecast", "no_forecast"]

_MOST_TRUNCATED = 0.5


@dataclass(frozen=True)
class Fit:
    """Accuracy expected at the headline budget: σ(intercept + slope · logit(score) + offset of the objective, 0 for seqkd)."""

    intercept: float
    slope: float
    offsets: Mapping[str, float]

    def expected(self, score: float, n: int, objective: str = "seqkd") -> float:
        """Of a score over n answers; half an answer is added to either side, so that 0 and 1 have a logit. KeyError: no such objective."""
        return 1 / (1 + math.exp(-(self.intercept + self.slope * logit(score, n) + self.offsets[objective])))


def logit(score: float, n: int) -> float:
    """log(right + ½) − log(wrong + ½) of n answers of which the share `score` is right."""
    return math.log((score * n + 0.5) / ((1 - score) * n + 0.5))


# By scripts/predictor.py to all cases of records/predictor/cases.csv; docs/diagnosis.md says what it is worth on a family not fitted to.
FITTED = Fit(0.88, 1.15, MappingProxyType({"seqkd": 0.0, "forward_kl": 0.17, "reverse_kl": -2.13, "jsd": -2.76}))

_SCORE = Rule(
    "distillability",
    "distillability",
    "accuracy expected of students by seqkd, from a probe's answers",
    0.5,
    "below",
    "own: a student that is wrong more often than right",
    "texts of another source (`diagnose.sources` compares them), best `plain_best_of_8`; "
    "`calibrate.teachers.NAME.knob` above 0: a teacher whose texts are learnt",
)


def distillability(evidence: Evidence) -> Finding:
    """The forecast for students of the teacher's own texts; by logits only where the student has the teacher's vocabulary."""
    if evidence.probed is None:
        return no_forecast(evidence.reason("probed"))
    return forecast(evidence.probed, texts_alone=evidence.on_teacher.compared is None)


def no_forecast(reason: str) -> Finding:
    """The finding that there is none, and why."""
    return _SCORE.missing(reason)


def forecast(probed: Probed, fit: Fit = FITTED, *, texts_alone: bool = False) -> Finding:
    """What students by seqkd are expected to reach (value), by other objectives (details), and the score behind it.

    Missing where most of the probe's answers were cut off: then it has not learnt to end them yet, and says nothing about the texts.
    The interval is that of the score (Wilson over prompts) through the same curve: it does not hold the error of the fit.

    Args:
        texts_alone: no divergence can be used, as where the vocabularies differ.
    """
    n, cut = len(probed.right), float(probed.truncated.mean()) if len(probed.truncated) else 0.0
    if cut > _MOST_TRUNCATED:
        why = f"after {probed.steps} steps the {probed.who} ends only {1 - cut:.0%} of its answers"
        return _SCORE.found(missing(f"{why}; a model that speaks the task's language must be the probe: give a proxy", n), str)
    score = share(probed.right)
    if score.value is None:
        return _SCORE.found(score, str)
    value, low, high = (None if bound is None else fit.expected(bound, n) for bound in (score.value, score.low, score.high))
    objectives = ("seqkd",) if texts_alone else fit.offsets
    by_objective = {objective: fit.expected(score.value, n, objective) for objective in objectives}
    return _SCORE.found(
        Estimate(value, low, high, f"{score.method}, through the fitted curve", n, score.n_skipped),
        lambda value: (
            f"After {probed.steps} steps on {probed.texts} of these texts the {probed.who} gets {score.value:.0%} right; "
            f"students of such texts reach about {value:.0%}."
        ),
        score=score.value,
        score_low=score.low,
        score_high=score.high,
        probe=probed.who,
        expected=by_objective,
    )


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (distillability,)
