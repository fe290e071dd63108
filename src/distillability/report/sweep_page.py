"""A sweep in words and numbers: does the knob dose, and what each value of it did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from distillability.config.sources import SWEEP
from distillability.report.naming import label, swatch
from distillability.report.numbers import interval, knob_text, number, signed
from distillability.report.rows import Arm, Cell, Index, arm_of
from distillability.report.verdicts import Outcome, Verdict
from distillability.results import Row

__all__ = ["curve_arms", "dose_table", "sweep_verdicts"]

Finding = Literal["doses", "doses above 0", "doses below 0", "switches", "follows", "falls", "not shown", "open"]

_HIGHER = "students learn more the higher it is set"
_APART = "stand apart from knob 0 and the end of their sign"
_HEADS: dict[Finding, str] = {
    "doses": f"The knob doses: {_HIGHER}, and on both sides of 0 values {_APART}",
    "doses above 0": f"The knob doses above 0 only: {_HIGHER}, and values above 0 {_APART}, none below 0",
    "doses below 0": f"The knob doses below 0 only: {_HIGHER}, and values below 0 {_APART}, none above 0",
    "switches": f"The knob is not shown to dose: {_HIGHER}, but no values in between {_APART}",
    "follows": f"The knob is not shown to dose: {_HIGHER}, but whether values in between {_APART} could not be measured",
    "falls": "The knob does not dose as it should: students learn less the higher it is set",
    "not shown": f"The knob is not shown to dose: not shown that {_HIGHER}",
}
_OUTCOMES: dict[Finding, Outcome] = {
    "doses": "yes",
    "doses above 0": "partly",
    "doses below 0": "partly",
    "switches": "partly",
    "follows": "partly",
    "falls": "no",
    "not shown": "no",
    "open": "open",
}


def curve_arms(index: Index, task: str) -> list[Arm]:
    """The ways of learning that were tried along the whole knob, those of the ends left out."""
    along = {row.objective for row in index.measures(task, "knob_order")}
    return [arm for arm in index.arms(task) if arm.objective in along and arm.prefix == "teacher"]


def dose_table(index: Index, task: str) -> list[dict[str, Any]]:
    """A line a teacher, by knob: what students learnt from it by each objective, what it kept, and how far it went.

    `students`: objective and decoding -> cells; the rest are lists of cells, one a calibration.
    `shifted`: whether the task has modes to shift.
    """
    metric = index.teacher_metric(task)
    lines = []
    for source in index.spectrum(task):
        cells = {
            (arm.label, decoding): index.student_cells(task, source, arm, decoding=decoding)
            for arm in curve_arms(index, task)
            for decoding in ("sampled", "greedy")
        }
        lines.append(
            {
                "source": source,
                "label": label(source),
                "knob": index.knob(task, source),
                "look": swatch(source, index.knob(task, source)),
                "students": {key: [cell.as_dict() for cell in found] for key, found in cells.items()},
                "kept": _dicts(index.teacher_cells(task, source, metric, "sampled")),
                "anchor": _dicts(index.teacher_cells(task, source, "anchor_nats", "sampled")),
                "shift": _dicts(index.teacher_cells(task, source, "mode_shift", "sampled")),
                "shifted": any(row.metric == "mode_shift" for row in index.teacher_metrics(task, source)),
                "predicted": _dicts(index.teacher_cells(task, source, "mode_shift_predicted", "sampled")),
                "flat": _dicts(index.teacher_cells(task, source, "anchor_flat", None)),
            }
        )
    return lines


def _dicts(cells: list[Cell]) -> list[dict[str, Any]]:
    return [cell.as_dict() for cell in cells]


# In words


def sweep_verdicts(index: Index) -> list[Verdict]:
    """One verdict a task whose knob was swept: does it dose, as far as intervals tell."""
    return [_verdict(index, task) for task in index.tasks if index.is_sweep(task)]


def _verdict(index: Index, task: str) -> Verdict:
    readings = _readings(index, task)
    findings = [_finding(order, between) for order, between in readings]
    known = [finding for finding in findings if finding != "open"]
    outcomes = {_OUTCOMES[finding] for finding in known}
    outcome: Outcome = "open" if not known else outcomes.pop() if len(outcomes) == 1 else "partly"
    details = [_students(index, task, order, between) for order, between in readings]
    details += [*_anchor(index, task), *_rest(index, task)]
    glance = tuple(_glance(index, task, *readings[0])) if readings else ()
    return Verdict(task, SWEEP, 0.0, outcome, _head(readings, findings), tuple(text for text in details if text), glance)


def _readings(index: Index, task: str) -> list[tuple[Row, Row | None]]:
    """Order and levels of every objective, of sampled answers where they were measured: greedy ones hide what is half learnt."""
    orders = index.measures(task, "knob_order", source=SWEEP)
    found = []
    for objective in dict.fromkeys(row.objective for row in orders):
        mine = sorted((row for row in orders if row.objective == objective), key=lambda row: (row.value is None, row.decoding != "sampled"))
        levels = index.measures(task, "knob_levels_between", source=SWEEP, objective=objective, decoding=mine[0].decoding)
        found.append((mine[0], levels[0] if levels else None))
    return sorted(found, key=lambda reading: arm_of(reading[0]).order)


def _finding(order: Row, between: Row | None) -> Finding:
    if order.value is None or order.ci_low is None or order.ci_high is None:
        return "open"
    if order.ci_high < 0:
        return "falls"
    if order.ci_low <= 0:
        return "not shown"
    if between is None or between.value is None:
        return "follows"
    above, below = (f"{side} 0: " in (between.interval or "") for side in ("above", "below"))
    if above and below:
        return "doses"
    return "doses above 0" if above else "doses below 0" if below else "switches"


def _head(readings: list[tuple[Row, Row | None]], findings: list[Finding]) -> str:
    known = [finding for finding in findings if finding != "open"]
    if not known:
        reason = readings[0][0].reason if readings else "no students along the knob"
        return f"Whether the knob doses is open: {reason}."
    best = next(finding for finding in _HEADS if finding in known)
    by = [arm_of(order).label for (order, _), finding in zip(readings, findings, strict=True) if finding == best]
    tried = "the one objective tried" if len(findings) == 1 else f"{len(by)} of {len(findings)} objectives tried ({', '.join(by)})"
    return f"{_HEADS[best]}, by {tried}."


def _students(index: Index, task: str, order: Row, between: Row | None) -> str:
    name = f"{arm_of(order).label}, {order.decoding} answers"
    if order.value is None:
        return f"{name}: {order.reason}."
    bounds = interval({"low": order.ci_low, "high": order.ci_high}, signed)
    parts = [f"rank correlation of knob and students' accuracy {signed(order.value)}{bounds} over {order.n} values"]
    if between is not None and between.value is not None:
        which = (between.interval or "").partition("; ")[2]
        parts.append(f"{between.value:.0f} of {between.n} values in between apart from 0 and both ends{f' ({which})' if which else ''}")
    elif between is not None:
        parts.append(f"values in between: {between.reason}")
    parts += _reached(index, task, order)
    return f"{name}: {'; '.join(parts)}."


def _reached(index: Index, task: str, order: Row) -> Iterator[str]:
    sources = index.knobs_of(task)
    found = (
        [(source, _accuracy(index, task, source, order)) for source in dict.fromkeys([sources[0], "plain", sources[-1]])] if sources else []
    )
    told = [
        f"{number(value)} {'by the plain teacher' if source == 'plain' else f'at knob {knob_text(index.knob(task, source) or 0.0)}'}"
        for source, value in found
        if value is not None
    ]
    if told:
        yield f"they reach {', '.join(told)}"


def _accuracy(index: Index, task: str, source: str, order: Row) -> float | None:
    return index.student_cells(task, source, arm_of(order), decoding=order.decoding or "greedy")[0].value


def _anchor(index: Index, task: str) -> Iterator[str]:
    for row in index.measures(task, "anchor_growth", source=SWEEP)[:1]:
        if row.value is None:
            yield f"Whether the anchor grows with the size of the knob is open: {row.reason}."
            continue
        nats = [cell.value for source in index.knobs_of(task) for cell in index.teacher_cells(task, source, "anchor_nats", "sampled")]
        known = [value for value in nats if value is not None]
        span = f"; {min(known):.2f} to {max(known):.2f} nats a sequence" if known else ""
        yield f"Rank correlation of |knob| and anchor {signed(row.value)} over {row.n} calibrations{span}."


def _rest(index: Index, task: str) -> Iterator[str]:
    """Which calibrations had come to rest: elsewhere the curve shows how far training went and not what the knob asks for."""
    cells = [(source, cell) for source in index.knobs_of(task) for cell in index.teacher_cells(task, source, "anchor_flat", None)]
    known = [(source, cell.value) for source, cell in cells if cell.value is not None]
    if not known:
        reason = next((cell.reason for _, cell in cells if cell.reason), "not measured")
        yield f"Whether calibrations had come to rest is not known ({reason})."
        return
    moving = dict.fromkeys(knob_text(index.knob(task, source) or 0.0) for source, value in known if not value)
    where = f", not at knob {', '.join(moving)}" if moving else ""
    yield f"The anchor had come to rest in {sum(bool(value) for _, value in known)} of {len(known)} calibrations{where}."


def _glance(index: Index, task: str, order: Row, between: Row | None) -> Iterator[tuple[str, str]]:
    sources = index.knobs_of(task)
    if len(sources) > 1:
        low, high = (_accuracy(index, task, source, order) for source in (sources[0], sources[-1]))
        ends = " → ".join(knob_text(index.knob(task, source) or 0.0) for source in (sources[0], sources[-1]))
        if low is not None and high is not None:
            yield f"{number(low)} → {number(high)}", f"students' accuracy by {arm_of(order).label}, {order.decoding}: knob {ends}"
    if order.value is not None:
        bounds = interval({"low": order.ci_low, "high": order.ci_high}, signed)
        yield signed(order.value), f"rank correlation of knob and students' accuracy{bounds}"
    if between is not None and between.value is not None:
        yield f"{between.value:.0f} of {between.n}", "values in between apart from 0 and both ends"
