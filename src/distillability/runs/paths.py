"""Where everything lies in a run folder."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "admission_file",
    "calibration_folder",
    "costs_file",
    "diagnosis_file",
    "evaluation_file",
    "numbered",
    "signals_file",
    "student_folder",
    "traces_file",
]


def numbered(source: str, calibration: int | None) -> str:
    """A source's name in paths: the calibration's number is part of it only from the second one on."""
    return source if not calibration else f"{source}-{calibration}"


def _objective_name(objective: str) -> str:
    """An objective's name in paths: no colon, as in `module:Class`, which not every file system takes."""
    return objective.replace(":", ".")


def admission_file(run: Path, task: str) -> Path:
    return run / "calibrate" / task / "admission.json"


def calibration_folder(run: Path, task: str, teacher: str, calibration: int) -> Path:
    return run / "calibrate" / task / teacher / f"seed-{calibration}"


def costs_file(run: Path) -> Path:
    return run / "costs.jsonl"


def traces_file(run: Path, task: str, source: str, calibration: int | None) -> Path:
    return run / "traces" / task / f"{numbered(source, calibration)}.jsonl"


def signals_file(run: Path, task: str, source: str, calibration: int | None) -> Path:
    return run / "traces" / task / f"{numbered(source, calibration)}.safetensors"


def student_folder(run: Path, task: str, source: str, calibration: int | None, objective: str, prefix: str, budget: str, seed: int) -> Path:
    return run / "distill" / task / numbered(source, calibration) / f"{_objective_name(objective)}{prefix}" / budget / f"seed-{seed}"


def diagnosis_file(
    run: Path, task: str, source: str, calibration: int | None, objective: str | None = None, seed: int | None = None
) -> Path:
    """What awaits students of a teacher; with an objective, what a distilled one shows."""
    folder = run / "diagnose" / task / numbered(source, calibration)
    return folder / "before.json" if objective is None else folder / _objective_name(objective) / f"seed-{seed}.json"


def evaluation_file(run: Path, *parts: str) -> Path:
    return run.joinpath("evaluate", *parts[:-1], f"{parts[-1]}.json")
