"""What the rows say, in one sentence a teacher. Every word rests on a measured row; nothing is promised about attacks not tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from distillability.config.sources import parent_of
from distillability.report.naming import kind_of, label
from distillability.report.numbers import interval, knob_text, number, signed, signed_knob
from distillability.report.rows import Arm, Cell, Index, arm_of, budget_of
from distillability.results import Row

__all__ = ["Comparison", "Verdict", "comparisons", "differences", "verdicts"]

Outcome = Literal["yes", "partly", "no", "open"]


@dataclass(frozen=True)
class Verdict:
    """One calibrated teacher of one task.

    outcome: did students move the way the knob points, by all, some or none of the objectives.
    glance: the few numbers that carry the verdict, each with what it is.
    """

    task: str
    source: str
    knob: float
    outcome: Outcome
    head: str
    detail: tuple[str, ...]
    glance: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Students of a calibrated teacher against those of the plain one, by one objective.

    ours: a cell a calibration. differences: paired, over all calibrations or one for each; empty where none is in the rows.
    """

    arm: Arm
    plain: Cell
    ours: tuple[Cell, ...]
    differences: tuple[Cell, ...]

    @property
    def direction(self) -> int | None:
        """+1 or -1 where every difference's interval lies on that side of 0 (without differences: where no two intervals touch).

        0 where some do not; None where there are no intervals.
        """
        signs = [_side(cell.low, cell.high, 0.0, 0.0) for cell in self.differences]
        signs = signs or [_side(cell.low, cell.high, self.plain.low, self.plain.high) for cell in self.ours]
        known = {sign for sign in signs if sign is not None}
        return None if not known else known.pop() if len(known) == 1 else 0


def _side(low: float | None, high: float | None, other_low: float | None, other_high: float | None) -> int | None:
    if low is None or high is None or other_low is None or other_high is None:
        return None
    return int(low > other_high) - int(high < other_low)


def comparisons(index: Index, task: str, source: str, decoding: str = "greedy") -> list[Comparison]:
    """One a way of learning, at the headline budget."""
    found = []
    for arm in index.arms(task):
        plain = index.student_cells(task, "plain", arm, decoding=decoding)[0]
        ours = tuple(cell for cell in index.student_cells(task, source, arm, decoding=decoding) if cell.value is not None)
        if plain.value is not None and ours:
            found.append(Comparison(arm, plain, ours, tuple(differences(index, task, source, arm, decoding))))
    return found


def differences(index: Index, task: str, source: str, arm: Arm, decoding: str) -> list[Cell]:
    """Paired differences to the plain teacher's students at the headline budget."""
    rows = index.measures(task, "difference_to_plain", source=source, objective=arm.objective, decoding=decoding)
    at_headline = [row for row in rows if row.budget is None or budget_of(row) == index.budget(task)]
    return [Cell.of(row) for row in at_headline if arm_of(row).prefix == arm.prefix]


def verdicts(index: Index) -> list[Verdict]:
    """One verdict a task and calibrated teacher with a knob other than 0; of a sweep, those of the knob's ends."""
    return [_verdict(index, task, source) for task in index.tasks for source in _judged(index, task)]


def _judged(index: Index, task: str) -> list[str]:
    turned = [source for source in index.spectrum(task) if kind_of(source) == "calibrated" and index.knob(task, source)]
    return [turned[0], turned[-1]] if index.is_sweep(task) and len(turned) > 1 else turned


def _verdict(index: Index, task: str, source: str) -> Verdict:
    knob = index.knob(task, source) or 0.0
    pairs = comparisons(index, task, source)
    known = [pair.direction for pair in pairs if pair.direction is not None]
    hits = sum(direction == (1 if knob > 0 else -1) for direction in known)
    outcome: Outcome = "open" if not known else "no" if not hits else "yes" if hits == len(known) else "partly"
    broken = _not_withstood(index, task, source) if knob < 0 and hits else []
    head = _head(source, knob, outcome, hits, len(known), broken)
    details = [_students(pairs), _teacher(index, task, source), *_extras(index, task, source, knob)]
    glance = tuple(_glance(index, task, source, knob, pairs))
    return Verdict(task, source, knob, "partly" if broken else outcome, head, tuple(text for text in details if text), glance)


def _not_withstood(index: Index, task: str, source: str) -> list[str]:
    """Attacks on a lowered teacher whose students are not shown to be below those of the plain one."""
    found = []
    for other in index.sources(task):
        if parent_of(other) == source:
            pairs = comparisons(index, task, other)
            if pairs and not all(pair.direction == -1 for pair in pairs):
                found.append(label(other).removeprefix(f"{source}, "))
    return found


def _head(source: str, knob: float, outcome: Outcome, hits: int, total: int, broken: Sequence[str]) -> str:
    name = f"Knob {knob_text(knob)}" if source.startswith("knob_") else f"{label(source)}{signed_knob(knob)}"
    wish = "raises what students learn from it" if knob > 0 else "lowers the yield of the attacks tried"
    if outcome == "open":
        return f"{name}: no comparison with the plain teacher has been measured with an interval."
    if outcome == "no":
        tried = f"by none of {total} objectives tried" if total > 1 else "by the one objective tried"
        return f"{name}: not shown that it {wish}, {tried}."
    count = (
        f"{hits} of {total} objectives tried"
        if hits < total
        else f"{_every(total)} objectives tried"
        if total > 1
        else "the one objective tried"
    )
    if broken:
        return f"{name}: lowers the yield of plain imitation, by {count}, but not shown to withstand every attack ({', '.join(broken)})."
    return f"{name}: {wish}, by {count}."


def _every(total: int) -> str:
    return "both" if total == 2 else f"all {total}"


def _span(values: Sequence[float], between: str = " to ") -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low}{between}{high}"


def _students(pairs: Sequence[Comparison]) -> str:
    if not pairs:
        return ""
    ours = [cell.value for pair in pairs for cell in pair.ours if cell.value is not None]
    plain = [pair.plain.value for pair in pairs if pair.plain.value is not None]
    return f"Its students reach {_span(ours)}, students of the plain teacher {_span(plain)}."


def _teacher(index: Index, task: str, source: str) -> str:
    metric = index.teacher_metric(task)
    parts = []
    for decoding in ("greedy", "sampled"):
        before = index.teacher_cells(task, "plain", metric, decoding)[0].value
        after = [cell.value for cell in index.teacher_cells(task, source, metric, decoding) if cell.value is not None]
        if before is not None and after:
            parts.append(f"{number(before)} before, {_span(after)} after ({decoding})")
    what = "right visible steps" if metric == "right_steps" else "accuracy"
    return f"The teacher's own {what}: {'; '.join(parts)}." if parts else "The teacher's own answers were not measured before and after."


def _extras(index: Index, task: str, source: str, knob: float) -> list[str]:
    """The best rival of a raised teacher; the best attack on a lowered one."""
    if knob > 0:
        rows = _measured(index, task, "headline_up", source)
        return [_against_free(rows)] if rows else ["No free alternative to hold it against was measured."]
    told = []
    for metric, how in (
        ("elicited_yield", "Asked with a prefill or examples"),
        ("oracle_elicited_yield", "Given the first bytes of the easy mode"),
    ):
        rows = _measured(index, task, metric, source)
        told += [f"{how}, it yields {_ranged(rows, plain=True)} of what the plain teacher does."] if rows else []
    return told or _elicited(index, task, source)


def _against_free(rows: Sequence[Row]) -> str:
    """Ahead or behind only where every interval says so."""
    sides = {_side(row.ci_low, row.ci_high, 0.0, 0.0) for row in rows}
    if sides == {1}:
        return f"Ahead of the best free alternative by {_ranged(rows)}."
    where = "Behind" if sides == {-1} else "Not shown to be ahead of"
    return f"{where} the best free alternative: {_ranged(rows)}."


def _measured(index: Index, task: str, metric: str, source: str) -> list[Row]:
    return [row for row in index.measures(task, metric, source=source, decoding="greedy") if row.value is not None]


def _ranged(rows: Sequence[Row], plain: bool = False) -> str:
    shown = number if plain else signed
    texts = [
        f"{shown(row.value)}{interval({'low': row.ci_low, 'high': row.ci_high}, shown)}"
        + (f" (#{(row.calibration or 0) + 1})" if len(rows) > 1 else "")
        for row in rows[:4]
    ]
    return ", ".join(texts) + (" and more" if len(rows) > 4 else "")


def _elicited(index: Index, task: str, source: str) -> list[str]:
    strongest = _strongest(index, task, source)
    if strongest is None:
        return ["No way of asking it but plainly was tried (prefill, examples, temperature, a choice among several texts)."]
    value, name = strongest
    return [f"The strongest attack tried ({name}) brings students to {number(value)}."]


def _strongest(index: Index, task: str, source: str) -> tuple[float, str] | None:
    """What students reach by the best attack on a teacher, and its name; None where none was tried."""
    reached = [
        (cell.value, label(other))
        for other in index.sources(task)
        if parent_of(other) == source
        for arm in index.arms(task)[:1]
        for cell in index.student_cells(task, other, arm)
        if cell.value is not None
    ]
    return max(reached, default=None)


def _glance(index: Index, task: str, source: str, knob: float, pairs: Sequence[Comparison]) -> Iterator[tuple[str, str]]:
    ours = [cell.value for pair in pairs for cell in pair.ours if cell.value is not None]
    plain = [pair.plain.value for pair in pairs if pair.plain.value is not None]
    if ours and plain:
        yield f"{_span(plain, '–')} → {_span(ours, '–')}", "students' accuracy: plain → this teacher"
    metric = index.teacher_metric(task)
    before = index.teacher_cells(task, "plain", metric, "greedy")[0].value
    after = [cell.value for cell in index.teacher_cells(task, source, metric, "greedy") if cell.value is not None]
    if before is not None and after:
        yield f"{number(before)} → {_span(after, '–')}", f"the teacher's own {metric.replace('_', ' ')}: before → after"
    rivals = _measured(index, task, "headline_up", source) if knob > 0 else []
    strongest = _strongest(index, task, source) if knob < 0 else None
    if rivals:
        bounds = interval({"low": rivals[0].ci_low, "high": rivals[0].ci_high}, signed) if len(rivals) == 1 else ""
        yield ", ".join(signed(row.value) for row in rivals[:2]), f"students' accuracy over the best free alternative{bounds}"
    elif strongest:
        yield number(strongest[0]), f"students' accuracy by the strongest attack: {strongest[1].removeprefix(f'{source}, ')}"
