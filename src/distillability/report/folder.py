"""What a report reads from a run folder, besides its rows. Only `results.json` must be there: a record keeps less than a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillability.errors import UserError
from distillability.results import Results, read_results

__all__ = ["Curve", "RunContents", "read_diagnoses", "read_run"]


@dataclass(frozen=True)
class Curve:
    """One calibration, step by step."""

    task: str
    source: str
    calibration: int
    lines: list[dict[str, Any]]


@dataclass(frozen=True)
class RunContents:
    """Everything that a report shows."""

    results: Results
    recipe: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    admissions: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    diagnoses: list[dict[str, Any]] = field(default_factory=list)


def read_run(folder: Path) -> RunContents:
    """Read a run folder.

    Raises:
        UserError: `results.json` is missing or does not fit its schema, or another file that is there cannot be read.
    """
    calibrate = folder / "calibrate"
    return RunContents(
        results=read_results(folder / "results.json"),
        recipe=_json(folder / "recipe.json"),
        manifest=_json(folder / "manifest.json"),
        curves=list(_curves(calibrate)),
        admissions={file.parent.name: _json(file) for file in sorted(calibrate.glob("*/admission.json"))},
        samples=_lines(folder / "samples.jsonl"),
        diagnoses=read_diagnoses(folder),
    )


def read_diagnoses(folder: Path) -> list[dict[str, Any]]:
    """Every diagnosis of a run folder.

    Raises:
        UserError: one of the files cannot be read.
    """
    return [_json(file) for file in sorted((folder / "diagnose").rglob("*.json"))]


def _curves(calibrate: Path) -> Iterator[Curve]:
    for file in sorted(calibrate.glob("*/*/seed-*/metrics.jsonl")):
        number = file.parent.name.removeprefix("seed-")
        lines = _lines(file)
        if lines and number.isdecimal():
            yield Curve(file.parents[2].name, file.parents[1].name, int(number), lines)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError.single(str(path), f"not readable as a JSON object ({error})", "restore it, or remove it") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    """One object a line; a last line cut off by a process that was stopped is not there yet."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise UserError.single(
                    f"{path}:{number}", f"not readable as a JSON object ({error})", "restore it, or remove the file"
                ) from None
    return found
