"""The schema of `results.json`: the one file that reports, records and other programs read.

One row a line; a field that has its default is left out.
A value that could not be measured is missing and says why in `reason`; it is never 0.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from distillability.errors import UserError
from distillability.files import write_text
from distillability.types import RENAMED_OBJECTIVES

__all__ = ["SCHEMA", "Budget", "Results", "Row", "RunInfo", "read_results", "write_results"]

SCHEMA = 2
_OLDEST = 1  # that is still read
_GONE = {"attacker": None, "access": None, "n_errors": 0}  # fields of schema 1 that no run ever filled, with what they held


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Budget(_Strict):
    """What a student was given: traces bought, optimiser steps, tokens of the traces it saw (all visits counted)."""

    queries: int | None = None
    steps: int | None = None
    tokens: int | None = None


class Row(_Strict):
    """One measured number.

    `value` and the interval are fractions for shares, nats or bytes where the metric says so.
    `calibration` numbers the independent calibrations of one knob from 0; null for everything uncalibrated.
    """

    task: str
    split: Literal["validate", "test", "calibrate", "query"]
    role: Literal["teacher", "student"]
    source: str
    knob: float | None = None
    proxy: str | None = None
    calibration: int | None = None
    student: str | None = None
    objective: str | None = None
    prefix: str | float | None = None
    budget: Budget | None = None
    decoding: Literal["greedy", "sampled"] | None = None
    seed: int | None = None
    metric: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    interval: str | None = None
    n: int = 0
    n_truncated: int = 0
    seconds: float | None = None
    reason: str | None = None

    @field_validator("objective")
    @classmethod
    def _present_name(cls, objective: str | None) -> str | None:
        """Older rows name an objective as it was called then."""
        return objective if objective is None else RENAMED_OBJECTIVES.get(objective, objective)

    @model_validator(mode="after")
    def _missing_has_a_reason(self) -> Row:
        if self.value is None and not self.reason:
            raise ValueError(f"{self.source}/{self.metric}: a missing value must say why in `reason`")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.source}/{self.metric}: value {self.value} is not finite; make it null with a reason")
        return self


class RunInfo(_Strict):
    """What the rows belong to."""

    name: str
    recipe_digest: str
    version: str
    seconds: float | None = None
    complete: bool = False
    queries: dict[str, int] = Field(default_factory=dict)
    steps: dict[str, int] = Field(default_factory=dict)
    chance: dict[str, float] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)


class Results(_Strict):
    """The whole of `results.json`."""

    schema_: int = Field(SCHEMA, alias="schema")
    run: RunInfo
    rows: list[Row] = Field(default_factory=list)

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


def read_results(path: Path) -> Results:
    """Read and check a `results.json` of this schema or the one before it.

    Raises:
        UserError: the file is missing, is not JSON, is of a schema that is not read, or does not fit its schema.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError.single(str(path), "there is no such file", "run the evaluate stage first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError.single(
            str(path), f"not readable as JSON ({error})", "restore it, or rerun with --resume after deleting it"
        ) from None
    content = _of_this_schema(path, raw)
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError.single(
            f"{path} at {place or 'the top'}", f"{first['msg']} ({error.error_count()} in all)", "rerun with --resume after deleting it"
        ) from None


def _of_this_schema(path: Path, raw: Any) -> dict[str, Any]:
    """What a file of this schema would hold in its place.

    Raises:
        UserError: there is no schema number, or it is of a schema that is not read.
    """
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if type(schema) is not int:
        what = "no schema number" if schema is None else f"schema {schema!r} is not a whole number"
        raise UserError.single(f"{path} at schema", what, "restore the file, or rerun with --resume after deleting it")
    if schema > SCHEMA:
        raise UserError.single(
            f"{path} at schema", f"schema {schema}; this version reads {_OLDEST} to {SCHEMA}", "install a newer distillability"
        )
    if schema < _OLDEST:
        raise UserError.single(
            f"{path} at schema", f"schema {schema}; this version reads {_OLDEST} to {SCHEMA}", "rerun with --resume after deleting the file"
        )
    content = {**raw, "schema": SCHEMA}
    if schema == 1 and isinstance(rows := content.get("rows"), list):
        content["rows"] = [_from_schema_1(row) if isinstance(row, dict) else row for row in rows]
    return content


def _from_schema_1(row: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that are gone; one that holds something stays, to be refused rather than lost."""
    return {key: value for key, value in row.items() if key not in _GONE or value != _GONE[key]}


def write_results(results: Results, path: Path) -> None:
    """Write `results.json` whole or not at all."""
    rows = ",\n".join(row.model_dump_json(exclude_defaults=True) for row in results.rows)
    run = results.run.model_dump_json()
    write_text(path, f'{{"schema": {results.schema_}, "run": {run}, "rows": [\n{rows}\n]}}\n')
