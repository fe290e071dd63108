"""The distill stage: the students that the recipe's arms ask for, after the texts they learn from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distillability.config.recipe import Arm
from distillability.files import write_json
from distillability.objectives import OBJECTIVES, build_objective
from distillability.stages.context import TaskContext
from distillability.stages.jobs import Job
from distillability.stages.layout import signals_file, student_folder, traces_file
from distillability.stages.traces import buy_traces, load_traces, usable
from distillability.training.distill import StudentSettings, distill_student
from distillability.training.signals import RecordedSignals

__all__ = ["Student", "student_jobs", "student_settings", "students", "trace_jobs"]


@dataclass(frozen=True)
class Student:
    """One student to be: what it learns from, how, and how much of it."""

    source: str
    calibration: int | None
    objective: str
    on_policy_share: float
    queries: int
    steps: int
    seed: int

    def folder(self, context: TaskContext) -> Path:
        prefix = f"-on-policy-{self.on_policy_share:g}" if self.on_policy_share else ""
        budget = f"q{self.queries}-s{self.steps}"
        return student_folder(context.run, context.task_name, self.source, self.calibration, self.objective, prefix, budget, self.seed)

    @property
    def title(self) -> str:
        number = f" #{self.calibration}" if self.calibration else ""
        return f"{self.source}{number} {self.objective} q{self.queries} s{self.steps} seed {self.seed}"


def students(context: TaskContext) -> list[Student]:
    """All students of the arms, each once, the headline budget first."""
    found = {student: None for arm in context.recipe.distill.arms for student in _of_arm(context, arm)}
    headline = (context.config.queries, context.config.steps)
    return sorted(found, key=lambda student: ((student.queries, student.steps) != headline, student.seed))


def _of_arm(context: TaskContext, arm: Arm) -> Iterator[Student]:
    for name in arm.sources:
        calibrations = context.calibrations_of(context.source(name))
        for calibration in calibrations[: arm.calibrations]:
            for objective in arm.objectives:
                for queries in arm.queries:
                    for steps in arm.steps:
                        for seed in range(arm.seeds):
                            yield Student(
                                name,
                                calibration,
                                objective,
                                arm.on_policy_share,
                                max(1, round(queries * context.config.queries)),
                                max(1, round(steps * context.config.steps)),
                                seed,
                            )


def trace_jobs(context: TaskContext) -> list[Job]:
    """One job for every source and calibration that a student needs."""
    wanted: dict[tuple[str, int | None], list[Student]] = {}
    for student in students(context):
        wanted.setdefault((student.source, student.calibration), []).append(student)
    jobs = []
    for (source, calibration), readers in wanted.items():
        queries = max(student.queries for student in readers)
        recorded = max((student.queries for student in readers if OBJECTIVES[student.objective].needs_teacher_logits), default=0)
        proof = traces_file(context.run, context.task_name, source, calibration).with_suffix(".done.json")
        arguments = {"context": context, "source_name": source, "calibration": calibration, "queries": queries, "proof": proof}
        jobs.append(Job(f"{context.task_name}: {queries} traces of {source}", proof, buy_traces, arguments | {"recorded": recorded}))
    return jobs


def student_jobs(context: TaskContext) -> list[Job]:
    """One job for every student."""
    return [
        Job(
            f"{context.task_name}: {student.title}",
            student.folder(context) / "done.json",
            _distill,
            {"context": context, "student": student},
        )
        for student in students(context)
    ]


def _distill(context: TaskContext, student: Student) -> None:
    folder = student.folder(context)
    objective = build_objective(student.objective, jsd_weight=context.recipe.distill.jsd_weight, skew=context.recipe.distill.skew)
    traces = usable(load_traces(traces_file(context.run, context.task_name, student.source, student.calibration), student.queries))
    signals = _signals(context, student, len(traces)) if objective.needs_teacher_logits else None
    live = objective.needs_teacher_logits and (signals is None or student.on_policy_share > 0)
    source = context.source(student.source)
    outcome = distill_student(
        student=context.untrained_student(student.seed),
        objective=objective,
        traces=traces,
        signals=signals,
        teacher=context.teacher(source.teacher, student.calibration) if live and source.teacher else None,
        settings=student_settings(context, student),
        autocast_dtype=context.student_dtype,
        folder=folder,
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_json(folder / "done.json", outcome | {"traces": len(traces)})


def _signals(context: TaskContext, student: Student, n_traces: int) -> RecordedSignals | None:
    """The recorded signals of exactly the student's traces; None where none were recorded."""
    file = signals_file(context.run, context.task_name, student.source, student.calibration)
    return RecordedSignals.load(file).first(n_traces) if file.is_file() else None


def student_settings(context: TaskContext, student: Student) -> StudentSettings:
    """How one student is trained."""
    settings, task = context.recipe.distill, context.config
    return StudentSettings(
        steps=student.steps,
        batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=task.learning_rates.get(student.objective, settings.learning_rate),  # type: ignore[call-overload]
        warmup_steps=settings.warmup_steps,
        on_policy_share=student.on_policy_share,
        max_completion_length=task.max_completion_length,
        save_steps=settings.save_steps,
        seed=context.seed("distill", student.seed),
    )
