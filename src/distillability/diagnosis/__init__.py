"""Diagnosis of traps and symptoms: each measure is a pure function from evidence to a finding."""

from __future__ import annotations

from collections.abc import Callable

from distillability.diagnosis import decoding, gap, off_policy, overconfidence, predictor, self_correction, tail_noise
from distillability.diagnosis.evidence import Evidence
from distillability.diagnosis.findings import Diagnosis, Finding

__all__ = ["FORECAST", "SYMPTOMS", "TRAPS", "Diagnosis", "Evidence", "Finding", "find"]

Measures = tuple[Callable[[Evidence], Finding], ...]

# What awaits a student, known before it is distilled; what it is expected to reach; and what a distilled one shows.
TRAPS: Measures = (*tail_noise.MEASURES, *off_policy.MEASURES, *gap.MEASURES)
FORECAST: Measures = predictor.MEASURES
SYMPTOMS: Measures = (*overconfidence.MEASURES, *self_correction.MEASURES, *decoding.MEASURES)


def find(evidence: Evidence, *, symptoms: bool) -> list[Finding]:
    """Every measure of the traps, and of the symptoms where the student has been distilled, else the forecast."""
    return [measure(evidence) for measure in (*TRAPS, *(SYMPTOMS if symptoms else FORECAST))]
