"""The model card of a calibrated teacher: what was done to it, and what was not tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillability.config.recipe import Calibrate, Teacher
from distillability.files import write_text
from distillability.runs.context import TaskContext

__all__ = ["write_card"]


def write_card(context: TaskContext, name: str, teacher: Teacher, outcome: dict[str, Any], model: Path) -> None:
    """Write `README.md` into the model's folder."""
    settings = context.recipe.calibrate
    adapter = settings.lora is not None and settings.lora.save == "adapter"
    text = f"""---
library_name: {"peft" if adapter else "transformers"}
tags: [distillability]
---
# {name}: a teacher calibrated for distillability

| | |
|---|---|
{"".join(f"| {key} | {_one_line(value)} |{chr(10)}" for key, value in _rows(context, teacher, outcome).items())}
Accuracy before and after, and students' accuracy, are in the `results.json` of the run that made this model.

Not tested: tasks other than {context.task_name}, attackers with access to the weights, and every attack that the run's report does not
list. A lowered distillability lowers the yield of the attacks tried; it does not rule out distillation.
"""
    write_text(model / "README.md", text)


def _rows(context: TaskContext, teacher: Teacher, outcome: dict[str, Any]) -> dict[str, str]:
    settings = context.recipe.calibrate
    proxies = context.config.all_proxies
    rows = {
        "original teacher": f"`{context.config.teacher}`",
        "knob": f"{teacher.knob:+g} (> 0 raises distillability, < 0 lowers it)",
        "calibration reward": f"{teacher.reward}, per {settings.normaliser.removesuffix('s')}, against the {settings.reference} teacher",
        "proxy": ", ".join(f"`{proxy}`" for proxy in proxies) + (f", {settings.proxy_aggregate}" if len(proxies) > 1 else ""),
        "task": context.task_name,
        "weights": _weights(settings),
        "steps": f"{outcome['kept_step']}" + (f" ({outcome['stopped']})" if outcome["stopped"] else ""),
        "anchor": f"K3, coefficient {settings.anchor_coefficient}",
    }
    if settings.accuracy_floor is not None:
        rows["accuracy floor"] = f"{settings.accuracy_floor.accuracy:g}, sampled, held out"
    return rows


def _weights(settings: Calibrate) -> str:
    if settings.lora is None:
        return "all trained"
    saved = "added to the original's" if settings.lora.save == "merged" else "which needs the original"
    return f"an adapter of rank {settings.lora.r}, {saved}"


def _one_line(text: str) -> str:
    """Fit for a table: what a grader or a model said may hold anything."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
