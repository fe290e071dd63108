"""A sweep's run folder with made-up numbers: a teacher a knob, three seeds, one objective along the whole knob and one at its ends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _synthetic_run import QUERIES, RIGHT_STEPS, STEPS, metrics_lines, student_rows, teacher_rows, write_run

from distillability.files import write_jsonl
from distillability.results import Budget, Row

KNOBS = (-1.0, -0.3, -0.1, -0.03, 0.0, 0.03, 0.1, 0.3, 1.0)


def source(knob: float) -> str:
    return f"knob_{knob:g}"


def accuracy(knob: float) -> float:
    """Half learnt in the middle, steep around 0, at rest beyond a tenth."""
    return 0.5 + 0.4 * math.tanh(12 * knob)


def sweep_rows(
    knobs: Sequence[float] = KNOBS,
    *,
    order: tuple[float | None, float | None, float | None] = (0.95, 0.82, 1.0),
    between: float | None = 2.0,
    ends: str = "jsd",
) -> list[Row]:
    """What the stages write of a sweep; `order`: the rank correlation and its bounds; `between`: how many values stand apart."""
    rows = [*teacher_rows("plain"), *student_rows("plain", 0.52, "seqkd"), *student_rows("plain", 0.3, ends)]
    for knob in knobs:
        rows += _knob_rows(knob, ends if knob in (min(knobs), max(knobs)) else None)
    common: dict[str, Any] = {"task": "maths", "split": "test", "source": "sweep"}
    students = common | {"role": "student", "student": "lab:maths/student", "objective": "seqkd", "prefix": "teacher"}
    students["budget"] = Budget(queries=QUERIES, steps=STEPS)
    why = "students of 2 values of the knob, 3 are needed"
    for decoding in ("greedy", "sampled"):
        value, low, high = order
        found = {"value": value, "ci_low": low, "ci_high": high, "n": len(knobs), "reason": why if value is None else None}
        rows.append(Row(**students, decoding=decoding, metric="knob_order", **found))
        chosen = "intervals of mean accuracy that do not touch; below 0: -0.03, above 0: +0.03" if between else "intervals of mean accuracy"
        reason = "a count of intervals has none of its own" if between is not None else "no students of values between the ends"
        counted = {"value": between, "n": len(knobs) - 2, "interval": chosen, "reason": reason}
        rows.append(Row(**students, decoding=decoding, metric="knob_levels_between", **counted))
    growth = {"metric": "anchor_growth", "value": 0.97, "n": len(knobs), "reason": "no bounds"}
    return [*rows, Row(**common, role="teacher", decoding="sampled", **growth)]


def _knob_rows(knob: float, further: str | None) -> Iterator[Row]:
    name = source(knob)
    RIGHT_STEPS.setdefault(name, 0.985)
    own = {"knob": knob, "proxy": "lab:maths/proxy"}
    yield from (row.model_copy(update=own) for row in student_rows(name, accuracy(knob), "seqkd", calibration=0))
    if further:
        yield from (row.model_copy(update=own) for row in student_rows(name, 0.4 + 0.1 * knob, further, calibration=0))
    yield from (
        row.model_copy(update=own | ({"value": min(1.4, 9 * abs(knob))} if row.metric == "anchor_nats" else {}))
        for row in teacher_rows(name, 0)
    )
    common: dict[str, Any] = {"task": "maths", "split": "test", "role": "teacher", "source": name, "calibration": 0} | own
    yield Row(**common, metric="anchor_flat", value=float(knob != -0.1), n=10, interval="a rule", reason="a rule has no bounds")
    predicted = 50 * knob
    yield Row(**common, decoding="sampled", metric="mode_shift_predicted", value=predicted, reason="a formula has no bounds")
    reached = 0.8 * predicted
    if abs(reached) < 7:
        bounds = {"value": reached, "ci_low": reached - 0.4, "ci_high": reached + 0.4}
    else:
        kind = "hard" if knob > 0 else "easy"
        bounds = {"value": None, "ci_low" if knob > 0 else "ci_high": math.copysign(7.1, knob)}
        bounds |= {"reason": f"no {kind} answers are left; the shift is beyond its bound"}
    yield Row(**common, decoding="sampled", metric="mode_shift", n=4000, **bounds)


def write_sweep(folder: Path, rows: Sequence[Row] | None = None, *, complete: bool = True, curves: bool = False) -> Path:
    """A run folder of a sweep with everything a report reads, but for the calibrations' own curves where they are not asked for."""
    write_run(folder, rows=sweep_rows() if rows is None else rows, complete=complete, curves=False)
    for knob in KNOBS if curves else ():
        write_jsonl(folder / "calibrate" / "maths" / source(knob) / "seed-0" / "metrics.jsonl", metrics_lines(math.tanh(12 * knob)))
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    (folder / "recipe.json").write_text(json.dumps(recipe | {"name": "synthetic-sweep"}), encoding="utf-8")
    return folder
