"""A run: the stages of a recipe, one after another, for every task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from rich.console import Console

from distillability.analysis.rows import summarise
from distillability.config.recipe import Recipe
from distillability.models.dtype import faster_autocast
from distillability.models.load import load_model
from distillability.report import build_report
from distillability.runs.context import TaskContext
from distillability.runs.costs import read_costs, sum_costs
from distillability.runs.folder import RunFolder
from distillability.runs.jobs import Job, Workers, open_workers, share_of_cores
from distillability.runs.paths import costs_file
from distillability.runs.processes import is_main, wait_for_all
from distillability.stages import STAGES
from distillability.stages.calibrate import admission_jobs, calibration_jobs
from distillability.stages.diagnose import diagnosis_jobs
from distillability.stages.distill import student_jobs, trace_jobs
from distillability.stages.evaluate import evaluation_jobs

__all__ = ["asked", "run"]

# Each stage is a list of steps; a step's jobs are independent of each other, and may look at what the steps before left behind.
_STEPS: dict[str, tuple[Callable[[TaskContext], list[Job]], ...]] = {
    "calibrate": (admission_jobs, calibration_jobs),
    "distill": (trace_jobs, student_jobs),
    "diagnose": (diagnosis_jobs,),
    "evaluate": (evaluation_jobs,),
}


def run(recipe: Recipe, folder: RunFolder, *, stages: Sequence[str] = STAGES, quiet: bool = False) -> None:
    """Do the named stages in their order; what is already done is not done again.

    Raises:
        UserError: something the user can fix: a proxy that fails admission, a task that lacks what a source needs.
    """
    console = Console(stderr=True, quiet=quiet or not is_main(), highlight=False, soft_wrap=True)
    started = time.perf_counter()
    with folder.lock() if is_main() else nullcontext(), open_workers(recipe.workers, console.print, costs_file(folder.path)) as workers:
        contexts = _contexts(recipe, folder, console)
        for stage in (stage for stage in asked(recipe, stages) if stage != "report"):
            begun = time.perf_counter()
            try:
                _run_stage(stage, contexts, workers)
            finally:  # what failed took its time too
                if is_main():
                    _record_costs(folder, stage, time.perf_counter() - begun)
            if is_main() and stage in ("diagnose", "evaluate"):
                summarise(contexts, folder, diagnosed=all(_diagnosed(context) for context in contexts))
        if "report" in stages and is_main():
            build_report(folder.path)  # says how long the other stages took, and the same whenever it is made again
        console.print(f"{recipe.name}: {', '.join(stages)} done in {time.perf_counter() - started:.0f} s")


def asked(recipe: Recipe, stages: Sequence[str]) -> list[str]:
    """In their order. A whole run diagnoses only where its recipe has a section for it; the verb needs none."""
    unasked = recipe.diagnose is None and "distill" in stages
    return [stage for stage in STAGES if stage in stages and not (stage == "diagnose" and unasked)]


def _diagnosed(context: TaskContext) -> bool:
    """Whether every diagnosis that the recipe asks for is there."""
    return context.recipe.diagnose is None or all(job.proof.exists() for job in diagnosis_jobs(context))


def _run_stage(stage: str, contexts: Sequence[TaskContext], workers: Workers) -> None:
    for step in _STEPS[stage]:
        workers.run(stage, [job for context in contexts for job in step(context)])


def _contexts(recipe: Recipe, folder: RunFolder, console: Console) -> list[TaskContext]:
    """One context a task; the dtype is measured once and kept when the run is resumed, so that resuming changes nothing."""
    if not is_main():
        wait_for_all()  # process 0 measures
    autocast: dict[str, dict[str, str]] = dict(folder.manifest.get("autocast", {}))
    for task in recipe.tasks:
        if task.name not in autocast:
            roles = {"teacher": task.teacher, "student": task.student}
            autocast[task.name] = {role: _dtype(recipe, reference) for role, reference in roles.items()}
            console.print(f"{task.name}: " + ", ".join(f"{role} in {dtype}" for role, dtype in autocast[task.name].items()))
    if is_main():
        folder.record(autocast=autocast)
        wait_for_all()
    return [TaskContext(recipe, task.name, folder.path.resolve(), autocast[task.name]) for task in recipe.tasks]


def _dtype(recipe: Recipe, reference: str) -> str:
    """Measured with as many threads as a worker will have."""
    if recipe.dtype != "auto":
        return recipe.dtype
    before = torch.get_num_threads()
    if recipe.workers > 1:
        torch.set_num_threads(share_of_cores(recipe.workers))
    try:
        return faster_autocast(load_model(reference, **recipe.loading))
    finally:
        torch.set_num_threads(before)


def _record_costs(folder: RunFolder, stage: str, seconds: float) -> None:
    """Wall time of each stage, added up over resumptions, and what its jobs took by kind of work."""
    spent: dict[str, float] = dict(folder.manifest.get("seconds", {}))
    folder.record(seconds=spent | {stage: spent.get(stage, 0.0) + seconds}, costs=sum_costs(read_costs(costs_file(folder.path))))
