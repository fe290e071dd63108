"""The traps and their symptoms: measures as pure functions from evidence to findings."""

from __future__ import annotations

from collections.abc import Callable

from distillability.traps import confidence, decay, gap, off_policy, predictor, self_correction, tail_noise
from distillability.traps.base import Diagnosis, Finding
from distillability.traps.evidence import Evidence

__all__ = ["FORECAST", "SYMPTOMS", "TRAPS", "Diagnosis", "Evidence", "Finding", "find"]

Measures = tuple[Callable[[Evidence], Finding], ...]

# What awaits a student, known before it is distilled; what it is expected to reach; and what a distilled one shows.
TRAPS: Measures = (*tail_noise.MEASURES, *off_policy.MEASURES, *gap.MEASURES)
FORECAST: Measures = predictor.MEASURES
SYMPTOMS: Measures = (*confidence.MEASURES, *self_correction.MEASURES, *decay.MEASURES)


def find(evidence: Evidence, *, symptoms: bool) -> list[Finding]:
    """Every measure of the traps, and of the symptoms where the student has been distilled, else the forecast."""
    return [measure(evidence) for measure in (*TRAPS, *(SYMPTOMS if symptoms else FORECAST))]
