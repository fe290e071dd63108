"""Derived rows: how far the knob moved students, beside what cheap tricks do, and what it left of the teacher.

Each calibration of a teacher by itself: its students share its luck, so those of several are no independent students of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from distillability.analysis.evaluations import Measured
from distillability.config.sources import FREE_ALTERNATIVES, THIEVES
from distillability.evaluation.intervals import paired_difference
from distillability.evaluation.measures import (
    Candidate,
    Measure,
    Scores,
    attack_yield,
    floor,
    gap_closed,
    headline_up,
    kept,
)
from distillability.results import Budget, Row
from distillability.runs.students import Student
from distillability.types import DECODINGS, Decoding

__all__ = ["comparison_rows"]


def comparison_rows(measured: Measured) -> Iterator[Row]:
    """Every comparison that what was measured allows."""
    for decoding in DECODINGS:
        yield from _teacher_changes(measured, decoding)
        arms = _Arms(measured, decoding)
        for objective, budget in arms.groups():
            yield from _against_plain(arms, objective, budget)
        yield from _against_tricks(arms)


class _Arms:
    """Scores of students by source, objective and budget, under one decoding."""

    def __init__(self, measured: Measured, decoding: Decoding):
        self.measured, self.decoding = measured, decoding
        self.headline = (measured.context.config.queries, measured.context.config.steps)
        settings = measured.context.recipe.evaluate
        self._options = {"resamples": settings.resamples, "confidence": settings.confidence}

    def groups(self) -> list[tuple[str, tuple[int, int]]]:
        """Every (objective, budget) at which there is a student of the plain teacher to compare with."""
        found = {(s.objective, (s.queries, s.steps)): None for s in self.measured.students if s.source == "plain" and not s.on_policy_share}
        return list(found)

    def scores(self, source: str, objective: str, budget: tuple[int, int], calibration: int | None = None) -> Scores | None:
        def wanted(student: Student) -> bool:
            same = (student.source, student.calibration) == (source, calibration) and student.objective == objective
            return same and not student.on_policy_share and (student.queries, student.steps) == budget

        return self.measured.scores(wanted, self.decoding)

    def some(self, *sources: str, objective: str, budget: tuple[int, int], calibration: int | None = None) -> dict[str, Scores]:
        """Those of the sources that there are students of."""
        found = {source: self.scores(source, objective, budget, calibration) for source in sources}
        return {source: scores for source, scores in found.items() if scores is not None}

    def sources(self, objective: str, budget: tuple[int, int]) -> list[tuple[str, int | None]]:
        """With the numbers of their calibrations."""
        students = self.measured.students
        found = ((s.source, s.calibration) for s in students if s.objective == objective and (s.queries, s.steps) == budget)
        return list(dict.fromkeys(found))

    def floor(self) -> dict[str, Candidate]:
        """What an attacker reaches without the teacher: a guess, the untrained student, one of gold answers."""
        students = self.some("gold_answers", objective="seqkd", budget=self.headline)
        before = self.measured.scores_before(self.decoding)
        if before is not None:
            students["none"] = before
        return floor(chance=self.measured.context.task.chance, students=students)

    def options(self, *what: object) -> dict[str, Any]:
        return self._options | {"rng": self.measured.rng(self.decoding, *what)}

    def row(self, metric: str, measure: Measure, source: str, objective: str, budget: tuple[int, int], calibration: int | None) -> Row:
        return self.measured.row(
            metric,
            measure,
            role="student",
            source=source,
            calibration=calibration,
            knob=self.measured.knob(source),
            proxy=self.measured.proxy(source),
            student=self.measured.context.config.student,
            objective=objective,
            prefix="teacher",
            budget=Budget(queries=budget[0], steps=budget[1]),
            decoding=self.decoding,
        )


def _against_plain(arms: _Arms, objective: str, budget: tuple[int, int]) -> Iterator[Row]:
    """Differences to the plain teacher's students, gap closed, and what a lowered knob left."""
    plain = arms.scores("plain", objective, budget)
    if plain is None:
        return
    teacher = _teacher_values(arms.measured, "plain", None, arms.decoding, "right", plain.test.shape[1])
    if teacher is None:
        raise ValueError(f"students were evaluated by {arms.decoding} decoding and the plain teacher was not")
    for source, calibration in arms.sources(objective, budget):
        scores = arms.scores(source, objective, budget, calibration)
        if scores is None or source == "plain":
            continue
        options = arms.options(source, objective, budget, calibration)
        closed = gap_closed(distillable=scores.test, plain=plain.test, teacher=teacher, **options)
        yield arms.row("difference_to_plain", closed.difference, source, objective, budget, calibration)
        if _is_calibrated(arms.measured, source, sign=1):
            yield arms.row("gap_closed", closed.ratio, source, objective, budget, calibration)
        if _is_calibrated(arms.measured, source, sign=-1):
            measure = kept(undistillable=scores, plain=plain, floor=arms.floor(), **options)
            yield arms.row("kept", measure, source, objective, budget, calibration)


def _against_tricks(arms: _Arms) -> Iterator[Row]:
    """The distillable teacher against the best free alternative; the undistillable one against the attacks tried; all by seqkd."""
    queries, steps = budget = arms.headline
    alternatives = arms.some(*FREE_ALTERNATIVES, objective="seqkd", budget=budget)
    richer = arms.scores("plain", "seqkd", (4 * queries, steps))
    if richer is not None:
        alternatives["plain at 4 Q"] = richer
    if alternatives:  # once another is there, asking the plain teacher is one as well
        alternatives = arms.some("plain", objective="seqkd", budget=budget) | alternatives
    attacks = arms.some("plain", "plain_prefilled", "plain_few_shot", "plain_greedy", objective="seqkd", budget=budget)
    for name in arms.measured.context.recipe.calibrate.teachers:
        for calibration in range(arms.measured.context.recipe.calibrate.calibrations):
            scores = arms.scores(name, "seqkd", budget, calibration)
            if scores is not None and alternatives and _is_calibrated(arms.measured, name, sign=1):
                options = arms.options("up", name, calibration)
                measure = headline_up(distillable=scores, alternatives=alternatives, **options)
                yield arms.row("headline_up", measure, name, "seqkd", budget, calibration)
            if attacks and _is_calibrated(arms.measured, name, sign=-1):
                yield from _yields(arms, name, calibration, attacks)


def _yields(arms: _Arms, name: str, calibration: int, plain: dict[str, Scores]) -> Iterator[Row]:
    which: dict[str, Any] = {"objective": "seqkd", "budget": arms.headline, "calibration": calibration}
    elicited = arms.some(f"{name}_prefilled", f"{name}_few_shot", **which)
    oracle = arms.some(f"{name}_prefilled_oracle", **which)
    passive = arms.some(name, **which)
    # A way of buying counts where both were asked so: one that only one of them was would move the yield by itself.
    both = [how for how in THIEVES if arms.some(f"{name}{how}", **which) and arms.some(f"plain{how}", **which | {"calibration": None})]
    thefts = arms.some(*(f"{name}{how}" for how in both), **which)
    common: dict[str, Any] = {"plain": plain, "floor": arms.floor()}
    if len(elicited) == 2:
        measure = attack_yield(guard=elicited, **common, **arms.options("elicited", name, calibration))
        yield arms.row("elicited_yield", measure, name, **which)
    if oracle:
        measure = attack_yield(guard=oracle, **common, **arms.options("oracle", name, calibration))
        yield arms.row("oracle_elicited_yield", measure, name, **which)
    if passive or elicited:
        common["plain"] = plain | arms.some(*(f"plain{how}" for how in both), **which | {"calibration": None})
        measure = attack_yield(guard=passive | elicited | thefts, **common, **arms.options("yield", name, calibration))
        yield arms.row("yield", measure, name, **which)


def _teacher_changes(measured: Measured, decoding: Decoding) -> Iterator[Row]:
    """What calibration cost the teacher itself, on the same prompts, one calibration at a time."""
    for name, calibration in measured.teachers:
        if name == "plain" or decoding not in measured.teacher(name, calibration)["test"]:
            continue
        for key, metric in (("right_steps", "teacher_right_steps_change"), ("right", "teacher_accuracy_change")):
            after = _teacher_values(measured, name, calibration, decoding, key)
            before = _teacher_values(measured, "plain", None, decoding, key)
            if after is None or before is None:
                continue
            change = Measure.of(paired_difference(after, before, confidence=measured.context.recipe.evaluate.confidence))
            yield measured.row(
                metric,
                change,
                role="teacher",
                source=name,
                knob=measured.knob(name),
                proxy=measured.proxy(name),
                calibration=calibration,
                decoding=decoding,
            )


def _teacher_values(
    measured: Measured, name: str, calibration: int | None, decoding: Decoding, key: str, n: int | None = None
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """One number a prompt; of the first `n` prompts, since splits are streams and a smaller evaluation is a prefix of a larger."""
    evaluation = measured.teacher(name, calibration)["test"].get(decoding)
    values = None if evaluation is None else evaluation[key]
    return None if values is None else np.array(values[:n])


def _is_calibrated(measured: Measured, source: str, sign: int) -> bool:
    """Whether a source is a teacher calibrated by the compatibility reward with a knob of that sign."""
    teacher = measured.context.recipe.calibrate.teachers.get(source)
    return teacher is not None and teacher.reward == "compatibility" and teacher.knob * sign > 0
