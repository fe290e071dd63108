"""Self-correction collapse: after one wrong step the student no longer finds back to the right answer. Measures are ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distillability.diagnosis.estimates import paired_change, share
from distillability.diagnosis.evidence import Evidence
from distillability.diagnosis.findings import Finding, Rule

__all__ = ["MEASURES", "lost_recovery", "lost_track"]

_TRAP = "self-correction collapse"
_LEAST = 20

_RECOVERY = Rule(
    _TRAP,
    "lost_recovery",
    "recovery from a planted error, teacher minus student",
    0.1,
    "above",
    "own: one planted error in ten that the teacher fixes and the student does not",
    "`on_policy_share` above 0: the student learns what to do after its own errors",
)


def lost_recovery(evidence: Evidence) -> Finding:
    """Share of planted errors after which the final answer is right all the same: the teacher's minus the student's, paired."""
    teacher, student = evidence.recoveries.get("teacher"), evidence.recoveries.get("student")
    if teacher is None or student is None:
        return _RECOVERY.missing(evidence.reason("recoveries"))
    estimate = paired_change(teacher.recovered, student.recovered, least=_LEAST)
    if estimate.value is None:
        return _RECOVERY.found(estimate, str)
    rates = {role: vars(share(found.recovered)) for role, found in (("teacher", teacher), ("student", student))}
    sentence = (
        f"After a planted wrong step the student still ends with the right answer in {rates['student']['value']:.0%} of the texts, "
        f"the teacher in {rates['teacher']['value']:.0%}."
    )
    return _RECOVERY.found(estimate, lambda _: sentence, rates=rates)


_TRACK = Rule(
    _TRAP,
    "lost_track",
    "texts that never end or go in circles after a planted error, student minus teacher",
    0.05,
    "above",
    "own: one text in twenty",
    "`on_policy_share` above 0; a longer `max_completion_length` where texts are cut and do not repeat",
)


def lost_track(evidence: Evidence) -> Finding:
    """Share of continuations cut off or going round in circles: the student's minus the teacher's, paired."""
    teacher, student = evidence.recoveries.get("teacher"), evidence.recoveries.get("student")
    if teacher is None or student is None:
        return _TRACK.missing(evidence.reason("recoveries"))
    lost = {role: ((found.truncated + found.repeated) > 0).astype(float) for role, found in (("teacher", teacher), ("student", student))}
    estimate = paired_change(lost["student"], lost["teacher"], least=_LEAST)
    rates = {
        role: {"truncated": float(found.truncated.mean()), "repeated": float(found.repeated.mean())}
        for role, found in (("teacher", teacher), ("student", student))
        if len(found.truncated)
    }
    sentence = f"After a planted wrong step {np.mean(lost['student']):.0%} of the student's texts lose the track."
    return _TRACK.found(estimate, lambda _: sentence, rates=rates)


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (lost_recovery, lost_track)
