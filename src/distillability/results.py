"""The schema of `results.json`: the one file that reports, records and other programs read.

A value that could not be measured is null and says why in `reason`; it is never 0.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distillability.errors import UserError
from distillability.files import write_text

__all__ = ["SCHEMA", "Budget", "Results", "Row", "RunInfo", "read_results", "write_results"]

SCHEMA = 1


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
    role: Literal["teacher", "student", "attacker"]
    source: str
    knob: float | None = None
    proxy: str | None = None
    calibration: int | None = None
    student: str | None = None
    objective: str | None = None
    prefix: str | float | None = None
    attacker: str | None = None
    access: Literal["text", "top_k", "logits", "weights"] | None = None
    budget: Budget | None = None
    decoding: Literal["greedy", "sampled"] | None = None
    seed: int | None = None
    metric: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    interval: str | None = None
    n: int = 0
    n_errors: int = 0
    n_truncated: int = 0
    seconds: float | None = None
    reason: str | None = None

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
    """Read and check a `results.json`.

    Raises:
        UserError: the file is missing, is not JSON, or does not fit the schema.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError.single(str(path), "there is no such file", "run the evaluate stage first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError.single(
            str(path), f"not readable as JSON ({error})", "restore it, or rerun with --resume after deleting it"
        ) from None
    try:
        return Results.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError.single(
            f"{path} at {place or 'the top'}", f"{first['msg']} ({error.error_count()} in all)", "rerun with --resume after deleting it"
        ) from None


def write_results(results: Results, path: Path) -> None:
    """Write `results.json` whole or not at all."""
    write_text(path, results.model_dump_json(by_alias=True, indent=1) + "\n")
