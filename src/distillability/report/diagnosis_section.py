"""The diagnoses of a run as people read them: a board of values, findings by severity, a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillability.report.advice import Advice, advise
from distillability.report.folder import read_diagnoses
from distillability.report.naming import label, look, sort_key, swatch
from distillability.report.numbers import number

__all__ = ["Board", "Forecasts", "Subject", "board", "diagnosis_text", "forecasts", "subjects"]

_ORDER = {"clear": 0, "possible": 1, "unknown": 2, "none": 3}
_FORECAST = "distillability"
_MOST_COLUMNS = 8
_MOST_TOLD = 3


@dataclass(frozen=True)
class Subject:
    """One diagnosis: of a teacher before distillation (objective None), or of a distilled student."""

    found: dict[str, Any]

    @property
    def source(self) -> str:
        return str(self.found.get("source", ""))

    @property
    def objective(self) -> str | None:
        objective = self.found.get("objective")
        return None if objective is None else str(objective)

    @property
    def label(self) -> str:
        number_ = self.found.get("calibration")
        name = label(self.source) + (f" #{number_ + 1}" if number_ else "")
        return name if self.objective is None else f"{name}, {self.objective}"

    @property
    def look(self) -> str:
        return swatch(self.source, self.found.get("knob"))

    @property
    def colour(self) -> str:
        return look(self.source, self.found.get("knob")).colour

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The most serious first."""
        return sorted(self.found.get("findings", []), key=lambda finding: _ORDER.get(finding["severity"], 3))

    @property
    def troubles(self) -> list[dict[str, Any]]:
        return [finding for finding in self.findings if finding["severity"] in ("clear", "possible")]

    def detail(self, name: str, key: str) -> Any:
        """What a measure's figure is made of; None where it was not measured."""
        return next((one["details"].get(key) for one in self.found.get("findings", []) if one["name"] == name), None)

    def finding(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.found.get("findings", []) if one["name"] == name), None)

    @property
    def forecast(self) -> dict[str, Any] | None:
        """What students of this source are expected to reach."""
        return self.finding(_FORECAST)

    @property
    def is_forecast(self) -> bool:
        """Nothing but the forecast was made: a source whose texts alone were looked at."""
        return [finding["name"] for finding in self.found.get("findings", [])] == [_FORECAST]


@dataclass(frozen=True)
class Board:
    """Values of the same measures side by side: a column a subject, a line a measure under the name of its trap."""

    columns: list[Subject]
    lines: list[dict[str, Any]]
    left_out: int


@dataclass(frozen=True)
class Forecasts:
    """What students of each source are expected to reach, the highest first, and what that advises."""

    lines: list[dict[str, Any]]
    best: Advice | None  # its source is a label
    advice: str


def forecasts(found: Sequence[Subject]) -> Forecasts | None:
    """Of the sources of one task; None where no forecast was made."""
    made = [(subject, subject.forecast) for subject in found if subject.objective is None and subject.forecast]
    if not made:
        return None
    lines = [
        {"label": subject.label, "look": subject.look, "cell": _cell(finding), "score": finding["details"].get("score"), "n": finding["n"]}
        | {"teacher": not subject.is_forecast, "expected": finding["details"].get("expected", {})}
        for subject, finding in made
    ]
    known = [(subject, finding) for subject, finding in made if finding["value"] is not None]
    best = advise(
        {subject.label: finding["details"]["expected"] for subject, finding in known},
        {subject.label: finding["high"] for subject, finding in known},
        [subject.label for subject, _ in known if not subject.is_forecast],
        label("plain"),
    )
    if best is None:
        return Forecasts(lines, None, "No source has a forecast, so none is advised.")
    than = "" if best.against is None else f"; students of the plain teacher's own texts, {_short(best.against)}"
    told = f"Distil from {best.source} by {best.objective}: students are expected to reach {_short(best.expected)}{than}."
    return Forecasts(sorted(lines, key=lambda line: -max(line["expected"].values(), default=-1.0)), best, told)


def subjects(diagnoses: Sequence[dict[str, Any]], task: str) -> list[Subject]:
    """Of one task; teachers first, in the order of their knob."""
    mine = [Subject(found) for found in diagnoses if found.get("task") == task]

    def order(subject: Subject) -> tuple[Any, ...]:
        place = sort_key(subject.source, subject.found.get("knob")), subject.found.get("calibration") or 0
        return subject.objective is not None, subject.objective != "seqkd", subject.objective or "", place, subject.found.get("seed") or 0

    return sorted(mine, key=order)


def board(found: Sequence[Subject]) -> Board | None:
    """None where there is nothing to show."""
    if not found:
        return None
    columns = list(found[:_MOST_COLUMNS])
    measures = {finding["name"]: finding for subject in columns for finding in subject.found.get("findings", [])}
    lines = [
        {"trap": finding["trap"], "title": finding["title"], "cells": [_cell(subject.finding(name)) for subject in columns]}
        for name, finding in measures.items()
    ]
    return Board(columns, lines, len(found) - len(columns))


def _cell(finding: dict[str, Any] | None) -> dict[str, Any]:
    if finding is None:
        return {"value": None, "reason": "not measured", "severity": "unknown"}
    bounds = finding["low"], finding["high"]
    interval = "" if None in bounds else f"[{_short(bounds[0])}, {_short(bounds[1])}]"
    value = None if finding["value"] is None else _short(finding["value"])
    return {"value": value, "interval": interval, "reason": finding["reason"], "severity": finding["severity"]}


def _short(value: float) -> str:
    """Three digits after the point, as for shares, and fewer of what is large."""
    return number(value) if abs(value) < 10 else f"{value:,.1f}"


def diagnosis_text(folder: Path) -> str:
    """A few lines on every diagnosed teacher of a run folder, its most serious findings first; empty where there is none."""
    found = read_diagnoses(folder)
    tasks = dict.fromkeys(str(diagnosis.get("task", "")) for diagnosis in found)
    every = [subject for task in tasks for subject in subjects(found, task)]
    lines = [line for subject in every if subject.objective is None and not subject.is_forecast for line in _told(subject)]
    lines += [f"{task}: {made.advice}" for task in tasks if (made := forecasts(subjects(found, task)))]
    distilled = sum(subject.objective is not None for subject in every)
    return "\n".join([*lines, *([f"{distilled} distilled students are diagnosed in the report"] if distilled else [])])


def _told(subject: Subject) -> Iterator[str]:
    task, troubles = subject.found.get("task"), subject.troubles
    yield f"{task}: {subject.label}, before distillation: {len(troubles)} of {len(subject.findings)} measures beyond their threshold"
    for finding in troubles[:_MOST_TOLD]:
        yield f"    {finding['title']}: {_short(finding['value'])}"
        yield f"        remedy: {finding['remedy'].replace('`', '')}"
    if len(troubles) > _MOST_TOLD:
        yield f"    and {len(troubles) - _MOST_TOLD} more"
