"""The headline in rows: what students reach, what the cheap tricks reach, and what the teacher keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distillability.report.naming import describe, kind_of, label
from distillability.report.numbers import interval, number, signed_knob
from distillability.report.rows import Arm, Cell, Index
from distillability.report.sweep_page import sweep_verdicts
from distillability.report.verdicts import differences
from distillability.results import Results

__all__ = ["headline_table", "headline_text"]

_MISSING_CHANGE = "no paired difference in results.json"
_CONTROL_ORDER = ("free", "control", "ceiling", "elicitation", "before")
# How much of what it is to keep (`Index.teacher_metric`) a calibrated teacher may lose, as the lower bound of the paired change.
KEPT_BARS = {"greedy": -0.015, "sampled": -0.02}


def headline_table(results: Results, *, decoding: str = "greedy") -> list[dict[str, Any]]:
    """The headline as plain data, tasks one after another.

    Each entry has `kind`:
        `students`: one objective; `cells`: source -> list of cells, one a calibration, sources ordered by knob.
        `control`: one control by seqkd (or the only objective there is); `cells`: list of cells, `differences`:
            cells of the paired difference to plain, `label`, `kind_label`, `isolates`.
        `teacher`: one calibrated teacher; `measures`: a list of metric, decoding and rows with before, after, change, bar, passed.
    A cell is `Cell.as_dict()`: value, low, high (fractions), n (prompts), seeds, calibration, reason.

    Args:
        decoding: how students answered, greedy or sampled.
    """
    index = Index(results)
    return [
        entry
        for task in index.tasks
        for entry in (
            *_students(index, task, decoding),
            *sorted(_controls(index, task, decoding), key=lambda entry: _CONTROL_ORDER.index(entry["control"])),
            *_teachers(index, task),
        )
    ]


def _students(index: Index, task: str, decoding: str) -> Iterator[dict[str, Any]]:
    queries, steps = index.budget(task)
    spectrum = index.spectrum(task)
    for arm in index.arms(task):
        cells = {source: index.student_cells(task, source, arm, decoding=decoding) for source in spectrum}
        if all(cell.n == 0 and cell.value is None for found in cells.values() for cell in found):
            continue
        yield {
            "kind": "students",
            "task": task,
            "objective": arm.objective,
            "label": arm.label,
            "student": arm.student,
            "decoding": decoding,
            "queries": queries,
            "steps": steps,
            "knobs": {source: index.knob(task, source) for source in spectrum},
            "cells": {source: [cell.as_dict() for cell in found] for source, found in cells.items()},
        }


def control_arm(index: Index, task: str) -> Arm | None:
    """Controls are compared by seqkd, the attack that needs least; by the first objective where nothing else was run."""
    return next(iter(index.arms(task)), None)


def _controls(index: Index, task: str, decoding: str) -> Iterator[dict[str, Any]]:
    arm = control_arm(index, task)
    if arm is None:
        return
    common = {"kind": "control", "task": task, "objective": arm.objective, "decoding": decoding}
    for source in index.sources(task):
        if kind_of(source) in ("plain", "calibrated"):
            continue
        cells = index.student_cells(task, source, arm, decoding=decoding)
        compared = [cell.as_dict() for cell in differences(index, task, source, arm, decoding)]
        yield common | _control(source, index.knob(task, source), cells) | {"budget": None, "differences": compared}
    for budget, name, isolates in _larger_budgets(index, task, arm):
        cells = index.student_cells(task, "plain", arm, decoding=decoding, budget=budget)
        free = "free alternative" if budget[0] != index.budget(task)[0] else "control"
        words = {"label": name, "isolates": isolates, "kind_label": free, "control": "free" if free != "control" else "control"}
        yield common | _control("plain", None, cells) | words | {"budget": list(budget), "differences": []}
    before = index.before(task, decoding=decoding)
    yield common | _control("none", None, [before]) | {"budget": None, "differences": []}


def _control(source: str, knob: float | None, cells: list[Cell]) -> dict[str, Any]:
    words = describe(source)
    return {**words, "kind": "control", "control": words["kind"], "knob": knob, "cells": [cell.as_dict() for cell in cells]}


def _larger_budgets(index: Index, task: str, arm: Arm) -> Iterator[tuple[tuple[int, int], str, str]]:
    """The plain teacher with four times the queries, and with four times the steps: what money and patience do."""
    queries, steps = index.budget(task)
    if queries is None or steps is None:
        return
    for budget in index.budgets(task, "plain", arm):
        if budget[0] == 4 * queries:
            yield budget, f"plain, 4 × queries ({budget[0]:,} × {budget[1]:,} steps)", "what money does"
        elif budget == (queries, 4 * steps):
            yield budget, f"plain, 4 × steps ({budget[1]:,})", "what patience does"


def _teachers(index: Index, task: str) -> Iterator[dict[str, Any]]:
    for source in index.teachers(task):
        if source == "plain":
            continue
        measures = [
            {"metric": metric, "decoding": decoding, "rows": _kept(index, task, source, metric, decoding)}
            for metric in ("right_steps", "accuracy")
            for decoding in ("greedy", "sampled")
        ]
        yield {
            "kind": "teacher",
            "task": task,
            "source": source,
            "label": label(source),
            "knob": index.knob(task, source),
            "measures": measures,
        }


def _kept(index: Index, task: str, source: str, metric: str, decoding: str) -> list[dict[str, Any]]:
    before = index.teacher_cells(task, "plain", metric, decoding)[0]
    rows = []
    for after in index.teacher_cells(task, source, metric, decoding):
        found = index.measures(task, f"teacher_{metric}_change", source=source, decoding=decoding, calibration=after.calibration)
        change = Cell.of(found[0]) if found else Cell.missing(_MISSING_CHANGE)
        bar = KEPT_BARS[decoding] if metric == index.teacher_metric(task) else None
        passed = None if bar is None or change.low is None else change.low > bar
        shown = {"before": before.as_dict(), "after": after.as_dict(), "change": change.as_dict()}
        rows.append(shown | {"calibration": after.calibration, "bar": bar, "passed": passed})
    return rows


def headline_text(results: Results) -> str:
    """The headline for a terminal: plain text, one block a task."""
    entries = headline_table(results)
    blocks = [] if results.run.complete else ["INCOMPLETE: this run has not finished; the numbers below are of what is there."]
    index = Index(results)
    doses = {verdict.task: f"{verdict.task}: {verdict.head}" for verdict in sweep_verdicts(index)}
    for task in index.tasks:
        mine = [entry for entry in entries if entry["task"] == task]
        dose = [doses[task]] if task in doses else []
        blocks.append("\n".join([*dose, *_student_lines(task, mine), *_control_lines(mine), *_teacher_lines(mine)]))
    return "\n\n".join(blocks) if blocks else "no rows yet"


def _student_lines(task: str, entries: list[dict[str, Any]]) -> list[str]:
    rows = [entry for entry in entries if entry["kind"] == "students"]
    if not rows:
        return [f"{task}: no students measured yet"]
    lines = [["", *(row["label"] for row in rows)]]
    for source, knob in rows[0]["knobs"].items():
        longest = max(len(row["cells"][source]) for row in rows)
        for place in range(longest):
            name = f"{source}{signed_knob(knob)}{f' #{place + 1}' if longest > 1 else ''}"
            lines.append([name, *(_shown(row["cells"][source][place : place + 1]) for row in rows)])
    budget = f"{rows[0]['queries']} queries, {rows[0]['steps']} steps, {rows[0]['decoding']}"
    return [f"{task}: accuracy of students by what they learnt from ({budget})", *_aligned(lines)]


def _control_lines(entries: list[dict[str, Any]]) -> list[str]:
    rows = [entry for entry in entries if entry["kind"] == "control" and any(cell["value"] is not None for cell in entry["cells"])]
    if not rows:
        return []
    return [f"  controls by {rows[0]['objective']}", *_aligned([[row["label"], row["kind_label"], _shown(row["cells"])] for row in rows])]


def _teacher_lines(entries: list[dict[str, Any]]) -> list[str]:
    """Right visible steps, or accuracy for a task that cannot check steps."""
    teachers = [entry for entry in entries if entry["kind"] == "teacher"]
    told = [line for entry in teachers for line in _teacher_measures(entry, "right_steps")]
    told = told or [line for entry in teachers for line in _teacher_measures(entry, "accuracy")]
    return ["  teacher, before -> after", *_aligned(told)] if told else []


def _teacher_measures(entry: dict[str, Any], metric: str) -> Iterator[list[str]]:
    for measure in entry["measures"]:
        for row in measure["rows"]:
            if measure["metric"] == metric and row["after"]["value"] is not None:
                name = f"{entry['label']}{signed_knob(entry['knob'])}{_numbered(row['calibration'])}"
                numbers = f"{number(row['before']['value'])} -> {number(row['after']['value'])}"
                yield [name, f"{metric} {measure['decoding']}", numbers]


def _numbered(calibration: int | None) -> str:
    return "" if not calibration else f" #{calibration + 1}"


def _shown(cells: list[dict[str, Any]]) -> str:
    return " / ".join("missing" if cell["value"] is None else f"{number(cell['value'])}{interval(cell)}" for cell in cells)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["    " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
