"""What a recipe will take before it is run: weights, memory, tokens, operations, hours and cost, from configurations alone.

Nothing is loaded. Where a number is not known it is assumed, and the plan says so. Not counted: loading and saving, grading, statistics.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distillability.config.recipe import Recipe
from distillability.errors import UserError
from distillability.planning.hardware import Hardware
from distillability.planning.memory import Memory
from distillability.planning.stage_memory import memory_of
from distillability.planning.stage_work import Line, StageName, elapsed, lines_of
from distillability.planning.task import Assumptions, PlannedTask

__all__ = ["Assumptions", "Plan", "PlannedModel", "plan_recipe"]


@dataclass(frozen=True)
class PlannedModel:
    """One model of one task: how many weights it has, and how many of them an optimiser changes."""

    task: str
    role: str
    reference: str
    weights: int
    trained: int


@dataclass(frozen=True)
class Plan:
    """All of it; memory is in bytes on one device, by task and stage."""

    recipe: str
    hardware: Hardware
    models: list[PlannedModel]
    memory: dict[str, dict[str, Memory]]
    lines: list[Line]
    notes: list[str]

    @property
    def stage_seconds(self) -> dict[tuple[str, StageName], float]:
        """From beginning to end, by task and stage."""
        return elapsed(self.lines, self.hardware)

    @property
    def seconds(self) -> float:
        """From beginning to end."""
        return sum(self.stage_seconds.values())

    @property
    def device_hours(self) -> float:
        return self.seconds * self.hardware.devices / 3600

    @property
    def usd(self) -> float | None:
        price = self.hardware.usd_per_hour
        return None if price is None else self.device_hours * price

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes, seconds and operations, not rounded."""
        return {
            "recipe": self.recipe,
            "hardware": asdict(self.hardware),
            "models": [asdict(model) for model in self.models],
            "memory": {task: {stage: _memory(memory) for stage, memory in stages.items()} for task, stages in self.memory.items()},
            "stages": [{"task": task, "stage": stage, "seconds": seconds} for (task, stage), seconds in self.stage_seconds.items()],
            "work": [self._line(line) for line in self.lines],
            "seconds": self.seconds,
            "device_hours": self.device_hours,
            "usd": self.usd,
            "assumed": self.notes,
        }

    def _line(self, line: Line) -> dict[str, Any]:
        total = line.total(self.hardware.devices)
        named = {"task": line.task, "stage": line.stage, "part": line.part, "dtype": line.dtype, "jobs": line.jobs}
        return named | {"tokens": total.tokens, "flops": total.operations, "job_seconds": line.job_seconds(self.hardware)}


def _memory(memory: Memory) -> dict[str, Any]:
    return {"stays": memory.stays, "phases": memory.phases, "peak": memory.peak}


def plan_recipe(recipe: Recipe, hardware: Hardware, assumptions: Assumptions) -> Plan:
    """The plan of a recipe that has been read.

    Raises:
        UserError: configurations that cannot be had or counted, all at once; prompts that cannot be read and are not assumed.
    """
    tasks = [PlannedTask(recipe, config, hardware, assumptions) for config in recipe.tasks]
    problems = [problem for task in tasks for problem in task.problems()]
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return Plan(
        recipe=recipe.name,
        hardware=hardware,
        models=[
            PlannedModel(task.config.name, role, reference, task.shape(role).n_weights, task.trained(role))
            for task in tasks
            for role, reference in task.config.models.items()
        ],
        memory={task.config.name: memory_of(task) for task in tasks},
        lines=[line for task in tasks for line in lines_of(task)],
        notes=list(dict.fromkeys(note for task in tasks for note in task.notes())),
    )
