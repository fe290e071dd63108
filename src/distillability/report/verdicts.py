"""What the rows say, in one sentence a teacher. Every word rests on a measured row; nothing is promised about attacks not tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distillability.report.naming import kind_of, label, parent_of
from distillability.report.numbers import interval, number, signed, signed_knob
from distillability.report.rows import Arm, Cell, Index
from distillability.results import Row

__all__ = ["Comparison", "Verdict", "comparisons", "verdicts"]

Outcome = Literal["yes", "partly", "no", "open"]


@dataclass(frozen=True)
class Verdict:
    """One calibrated teacher of one task. `outcome`: did students move the way the knob points, in all, some or no comparisons."""

    task: str
    source: str
    outcome: Outcome
    head: str
    detail: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Students of a calibrated teacher against those of the plain one, by one objective, of one calibration."""

    arm: Arm
    plain: Cell
    ours: Cell
    difference: Cell | None

    @property
    def direction(self) -> int | None:
        """+1 or -1 where the difference's interval leaves out 0 (where there is none: where the two intervals do not touch), else 0."""
        if self.difference is not None and self.difference.low is not None and self.difference.high is not None:
            return int(self.difference.low > 0) - int(self.difference.high < 0)
        if None in (self.ours.low, self.ours.high, self.plain.low, self.plain.high):
            return None
        return int(self.ours.low > self.plain.high) - int(self.ours.high < self.plain.low)  # type: ignore[operator]


def comparisons(index: Index, task: str, source: str, decoding: str = "greedy") -> list[Comparison]:
    """Every measured pair at the headline budget."""
    found = []
    for arm in index.arms(task):
        plain = index.student_cells(task, "plain", arm, decoding=decoding)[0]
        for ours in index.student_cells(task, source, arm, decoding=decoding):
            if plain.value is not None and ours.value is not None:
                found.append(Comparison(arm, plain, ours, _difference(index, task, source, arm, ours, decoding)))
    return found


def _difference(index: Index, task: str, source: str, arm: Arm, ours: Cell, decoding: str) -> Cell | None:
    queries, steps = index.budget(task)
    fields = {"source": source, "objective": arm.objective, "calibration": ours.calibration, "decoding": decoding}
    for row in index.measures(task, "difference_to_plain", **fields):
        prefix = "teacher" if row.prefix is None else row.prefix if isinstance(row.prefix, str) else f"{row.prefix:g}"
        at_headline = row.budget is None or (row.budget.queries, row.budget.steps) == (queries, steps)
        if prefix == arm.prefix and at_headline:
            return Cell.of(row)
    return None


def verdicts(index: Index) -> list[Verdict]:
    """One verdict a task and calibrated teacher with a knob other than 0."""
    return [
        _verdict(index, task, source)
        for task in index.tasks
        for source in index.spectrum(task)
        if kind_of(source) == "calibrated" and index.knob(task, source)
    ]


def _verdict(index: Index, task: str, source: str) -> Verdict:
    knob = index.knob(task, source) or 0.0
    pairs = comparisons(index, task, source)
    directions = [pair.direction for pair in pairs]
    known = [direction for direction in directions if direction is not None]
    hits = sum(direction == (1 if knob > 0 else -1) for direction in known)
    outcome: Outcome = "open" if not known else "no" if not hits else "yes" if hits == len(known) else "partly"
    details = [_students(pairs), _teacher(index, task, source), *_extras(index, task, source, knob)]
    return Verdict(task, source, outcome, _head(source, knob, outcome, hits, len(known)), tuple(text for text in details if text))


def _head(source: str, knob: float, outcome: Outcome, hits: int, total: int) -> str:
    name = f"{label(source)}{signed_knob(knob)}"
    wish = "raises what students learn from it" if knob > 0 else "lowers the yield of the attacks tried"
    if outcome == "open":
        return f"{name}: no comparison with the plain teacher has been measured with an interval."
    if outcome == "no":
        return f"{name}: not shown that it {wish}; 0 of {_counted(total)} differ from the plain teacher that way."
    count = "the one comparison" if total == 1 else f"all {total} comparisons" if hits == total else f"{hits} of {total} comparisons"
    return f"{name}: {wish}, in {count} by objective and calibration."


def _counted(total: int) -> str:
    return "1 comparison" if total == 1 else f"{total} comparisons"


def _span(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _students(pairs: Sequence[Comparison]) -> str:
    if not pairs:
        return ""
    ours = [pair.ours.value for pair in pairs if pair.ours.value is not None]
    plain = [pair.plain.value for pair in pairs if pair.plain.value is not None]
    return f"Students reach {_span(ours)}; students of the plain teacher {_span(plain)}."


def _teacher(index: Index, task: str, source: str) -> str:
    parts = []
    for decoding in ("greedy", "sampled"):
        metric = "right_steps"
        before = index.teacher_cells(task, "plain", metric, decoding)[0].value
        after = [cell.value for cell in index.teacher_cells(task, source, metric, decoding) if cell.value is not None]
        if before is not None and after:
            parts.append(f"{number(before)} to {_span(after)} ({decoding})" if len(after) == 1 else f"{number(before)}, then {_span(after)} ({decoding})")
    return f"The teacher's own right visible steps go from {', '.join(parts)}." if parts else "The teacher's own right steps were not measured."


def _extras(index: Index, task: str, source: str, knob: float) -> list[str]:
    """The best rival of a raised teacher; the best elicitation of a lowered one."""
    if knob > 0:
        rows = [row for row in index.measures(task, "headline_up", source=source) if row.value is not None]
        return [f"Against the best free alternative: {_ranged(rows)}."] if rows else []
    told = []
    rows = [row for row in index.measures(task, "elicited_yield", source=source) if row.value is not None]
    if rows:
        told.append(f"Asked with a prefill or examples, it yields {_ranged(rows, plain=True)} of what the plain teacher does.")
    else:
        told += _elicited(index, task, source)
    return told


def _ranged(rows: Sequence[Row], plain: bool = False) -> str:
    shown = number if plain else signed
    texts = [f"{shown(row.value)}{interval({'low': row.ci_low, 'high': row.ci_high})}" for row in rows[:4]]
    return ", ".join(texts) + (" and more" if len(rows) > 4 else "")


def _elicited(index: Index, task: str, source: str) -> list[str]:
    reached = [
        (cell.value, label(other))
        for other in index.sources(task)
        if parent_of(other) == source
        for arm in index.arms(task)[:1]
        for cell in index.student_cells(task, other, arm)
        if cell.value is not None
    ]
    if not reached:
        return ["No elicitation (prefill, examples in the prompt) was tried."]
    value, name = max(reached)
    return [f"The strongest elicitation tried ({name}) brings students to {number(value)}."]
