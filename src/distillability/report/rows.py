"""Finding rows: one index over `results.json`, so that tables and pictures ask the same questions in the same words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from distillability.config.objectives import OBJECTIVE_RECORDS
from distillability.config.sources import SWEEP
from distillability.report.naming import kind_of, sort_key
from distillability.results import Results, Row

__all__ = ["DERIVED", "Arm", "Cell", "Index"]

# Measures that compare several rows; the rest are measured one model at a time.
DERIVED = (
    "difference_to_plain",
    "gap_closed",
    "kept",
    "yield",
    "elicited_yield",
    "oracle_elicited_yield",
    "headline_up",
    "teacher_right_steps_change",
    "teacher_accuracy_change",
    "knob_order",
    "knob_levels_between",
    "anchor_growth",
)
_OBJECTIVES = tuple(OBJECTIVE_RECORDS)


@dataclass(frozen=True)
class Cell:
    """One number as it is shown. `value` None: it is missing, and `reason` says why. `seeds`: students behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    seeds: int = 0
    calibration: int | None = None
    reason: str | None = None

    @classmethod
    def missing(cls, reason: str, calibration: int | None = None) -> Cell:
        return cls(None, calibration=calibration, reason=reason)

    @classmethod
    def of(cls, row: Row, seeds: int = 0) -> Cell:
        return cls(row.value, row.ci_low, row.ci_high, row.n, seeds, row.calibration, row.reason)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Arm:
    """How students learnt: the objective, whose prefixes, and which student."""

    objective: str
    prefix: str = "teacher"
    student: str | None = None

    @property
    def label(self) -> str:
        return self.objective if self.prefix == "teacher" else f"{self.objective}, {self.prefix} on-policy"

    @property
    def order(self) -> tuple[int, str, str]:
        known = _OBJECTIVES.index(self.objective) if self.objective in _OBJECTIVES else len(_OBJECTIVES)
        return known, self.label, self.student or ""


def arm_of(row: Row) -> Arm:
    """The arm of a student's row."""
    prefix = "teacher" if row.prefix is None else row.prefix
    return Arm(row.objective or "?", prefix if isinstance(prefix, str) else f"{prefix:g}", row.student)


def budget_of(row: Row) -> tuple[int | None, int | None]:
    """(queries, steps) that the row's student was given."""
    return (row.budget.queries, row.budget.steps) if row.budget else (None, None)


_Key = tuple[str, str | None, tuple[int | None, int | None]]  # metric, decoding, budget


class Index:
    """Rows by what they measure. Only the test split is shown; the validate split is where choices were made."""

    def __init__(self, results: Results):
        self.results = results
        self._students: dict[tuple[str, str, Arm], dict[_Key, list[Row]]] = defaultdict(lambda: defaultdict(list))
        self._teachers: dict[tuple[str, str], list[Row]] = defaultdict(list)
        self.derived: dict[str, list[Row]] = defaultdict(list)
        self.knobs: dict[tuple[str, str], float | None] = {}
        for row in results.rows:
            if row.metric in DERIVED:
                self.derived[row.task].append(row)
            elif row.split == "test" and row.role == "student":
                self._students[row.task, row.source, arm_of(row)][row.metric, row.decoding, budget_of(row)].append(row)
            elif row.split == "test" and row.role == "teacher":
                self._teachers[row.task, row.source].append(row)
            if row.knob is not None or (row.task, row.source) not in self.knobs:
                self.knobs[row.task, row.source] = row.knob

    @cached_property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys([*self.results.run.queries, *(row.task for row in self.results.rows)]))

    def knob(self, task: str, source: str) -> float | None:
        return self.knobs.get((task, source))

    def teachers(self, task: str) -> list[str]:
        """Teachers that were tested, by knob."""
        return self._ordered(task, {source for owner, source in self._teachers if owner == task})

    def sources(self, task: str) -> list[str]:
        """What students learnt from, by knob, controls after."""
        return self._ordered(task, {source for owner, source, _ in self._students if owner == task and source != "none"})

    def spectrum(self, task: str) -> list[str]:
        """The plain and the calibrated teachers, by knob; those that students were promised are listed even where none was measured."""
        found = [source for source in {*self.sources(task), *self.teachers(task)} if kind_of(source) in ("plain", "calibrated")]
        return self._ordered(task, {*found, "plain"})

    def is_sweep(self, task: str) -> bool:
        """Whether the knob as a whole was measured, beside single teachers."""
        return any(row.source == SWEEP for row in self.derived.get(task, []))

    def knobs_of(self, task: str) -> list[str]:
        """The calibrated teachers that have a knob, by knob."""
        return [source for source in self.spectrum(task) if kind_of(source) == "calibrated" and self.knob(task, source) is not None]

    def arms(self, task: str) -> list[Arm]:
        return sorted({arm for owner, source, arm in self._students if owner == task and source != "none"}, key=lambda arm: arm.order)

    def _ordered(self, task: str, sources: Iterable[str]) -> list[str]:
        return sorted(sources, key=lambda source: sort_key(source, self.knob(task, source)))

    def budget(self, task: str) -> tuple[int | None, int | None]:
        """The headline budget: traces bought, student steps."""
        return self.results.run.queries.get(task), self.results.run.steps.get(task)

    def budgets(self, task: str, source: str, arm: Arm) -> list[tuple[int, int]]:
        """Every (queries, steps) that students of a source were given."""
        keys = self._students.get((task, source, arm), {})
        return sorted({(queries, steps) for _, _, (queries, steps) in keys if queries and steps})

    def student_cells(
        self, task: str, source: str, arm: Arm, *, decoding: str = "greedy", metric: str = "accuracy", budget: tuple[int, int] | None = None
    ) -> list[Cell]:
        """Pooled over seeds, one cell a calibration; one missing cell with a reason where nothing was measured.

        Args:
            budget: (queries, steps); the headline one where None.
        """
        wanted = budget or self.budget(task)
        if None in wanted:
            return [Cell.missing("the run names no headline budget for this task")]
        found = self._students.get((task, source, arm), {})
        at_budget = found.get((metric, decoding, wanted))
        if not at_budget:
            elsewhere = any(key[:2] == (metric, decoding) for key in found)
            return [Cell.missing("only measured at other budgets" if elsewhere else "no such student was measured")]
        return list(_pooled(at_budget))

    def before(self, task: str, *, decoding: str = "greedy") -> Cell:
        """The students before distillation."""
        rows = [
            row
            for (owner, source, _), found in self._students.items()
            if owner == task and source == "none"
            for key, members in found.items()
            if key[:2] == ("accuracy", decoding)
            for row in members
        ]
        return next(_pooled(rows), Cell.missing("the untrained student was not measured"))

    def teacher_cells(self, task: str, source: str, metric: str, decoding: str | None) -> list[Cell]:
        """One cell a calibration; one missing cell where nothing was measured."""
        rows = [row for row in self._teachers.get((task, source), []) if row.metric == metric and row.decoding == decoding]
        return [Cell.of(row) for row in sorted(rows, key=_calibration)] or [Cell.missing("not measured")]

    def teacher_metric(self, task: str) -> str:
        """What a teacher is to keep: right visible steps, or accuracy where the task cannot check steps."""
        rows = (row for source in self.teachers(task) for row in self._teachers[task, source])
        return "right_steps" if any(row.metric == "right_steps" and row.value is not None for row in rows) else "accuracy"

    def teacher_metrics(self, task: str, source: str) -> list[Row]:
        return self._teachers.get((task, source), [])

    def measures(self, task: str, metric: str, **fields: Any) -> list[Row]:
        """Derived rows of a metric whose fields have these values; a field that is null in the row fits any value."""
        return [
            row
            for row in self.derived.get(task, [])
            if row.metric == metric and all(getattr(row, name) in (None, value) for name, value in fields.items())
        ]


def _calibration(row: Row) -> int:
    return -1 if row.calibration is None else row.calibration


def _pooled(rows: Sequence[Row]) -> Iterator[Cell]:
    by_calibration: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_calibration[_calibration(row)].append(row)
    for _, members in sorted(by_calibration.items()):
        single = [row for row in members if row.seed is not None]
        pooled = next((row for row in members if row.seed is None), None)
        yield Cell.of(pooled, len(single)) if pooled else _mean_of_seeds(single)


def _mean_of_seeds(rows: Sequence[Row]) -> Cell:
    """Without a row over all seeds there is a mean, but no interval that knows of seeds; one seed brings its own."""
    if len(rows) == 1:
        return Cell.of(rows[0], 1)
    values = [row.value for row in rows if row.value is not None]
    if len(values) < len(rows):
        return Cell.missing(next(row.reason for row in rows if row.value is None) or "", rows[0].calibration)
    return Cell(fmean(values), None, None, rows[0].n, len(rows), rows[0].calibration, "no interval over seeds in results.json")
