"""The findings of every diagnosis as rows of `results.json`."""

from __future__ import annotations

from distillability.files import read_json
from distillability.results import Row
from distillability.runs.context import TaskContext

__all__ = ["diagnosis_rows"]


def diagnosis_rows(context: TaskContext) -> list[Row]:
    """A row of `results.json` for every finding of every diagnosis that is there."""
    rows = []
    for file in sorted((context.run / "diagnose" / context.task_name).rglob("*.json")):
        found = read_json(file)
        common = {key: found[key] for key in ("task", "source", "calibration", "knob", "student", "objective", "seed")}
        for finding in found["findings"]:
            rows.append(
                Row(
                    **common,
                    split="validate",
                    role="teacher" if found["objective"] is None else "student",
                    metric=finding["name"],
                    value=finding["value"],
                    ci_low=finding["low"],
                    ci_high=finding["high"],
                    interval=finding["method"],
                    n=finding["n"],
                    reason=finding["reason"],
                )
            )
        seconds = found["cost"]["seconds"]
        rows.append(Row(**common, split="validate", role="teacher", metric="diagnosis_seconds", value=seconds, n=1, seconds=seconds))
    return rows
