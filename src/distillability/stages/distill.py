"""The distill stage: the students that the recipe's arms ask for, after the texts they learn from."""

from __future__ import annotations

import shutil

from distillability.config.objectives import record_of
from distillability.errors import UserError
from distillability.files import write_json
from distillability.objectives import build_objective
from distillability.runs.context import TaskContext
from distillability.runs.jobs import Job
from distillability.runs.paths import signals_file, traces_file
from distillability.runs.processes import is_main
from distillability.runs.students import Student, students
from distillability.stages.traces import load_traces, sample_traces
from distillability.training.checkpoints import last_checkpoint
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.training.teacher_signals import RecordedSignals
from distillability.types import complete_traces

__all__ = ["student_jobs", "student_settings", "trace_jobs"]


def trace_jobs(context: TaskContext) -> list[Job]:
    """One job for every source and calibration that a student needs."""
    wanted: dict[tuple[str, int | None], list[Student]] = {}
    for student in students(context):
        wanted.setdefault((student.source, student.calibration), []).append(student)
    jobs = []
    for (source, calibration), readers in wanted.items():
        queries = max(student.queries for student in readers)
        recorded = max((student.queries for student in readers if record_of(student.objective).needs_teacher_logits), default=0)
        proof = traces_file(context.run, context.task_name, source, calibration).with_suffix(".done.json")
        arguments = {"context": context, "source_name": source, "calibration": calibration, "queries": queries, "proof": proof}
        title = f"{context.task_name}: {queries} traces of {source}"
        jobs.append(Job(title, proof, "traces", sample_traces, arguments | {"recorded": recorded}))
    return jobs


def student_jobs(context: TaskContext) -> list[Job]:
    """One job for every student."""
    return [
        Job(
            f"{context.task_name}: {student.title}",
            student.folder(context) / "done.json",
            f"student by {student.objective}",
            _distill,
            {"context": context, "student": student},
            together=True,
        )
        for student in students(context)
    ]


def _distill(context: TaskContext, student: Student) -> int | None:
    folder = student.folder(context)
    objective = build_objective(student.objective, context.recipe.distill)
    traces = complete_traces(load_traces(traces_file(context.run, context.task_name, student.source, student.calibration), student.queries))
    if not traces:
        raise UserError.single(
            f"traces of {student.source}",
            f"none of {student.queries} texts was complete within max_completion_length = {context.config.max_completion_length}",
            "raise it, and buy them again: a run of its own",
        )
    signals = _signals(context, student, len(traces)) if objective.needs_teacher_logits else None
    live = objective.needs_teacher_logits and (signals is None or student.on_policy_share > 0)
    source = context.source(student.source)
    resumed = last_checkpoint(folder / "checkpoints") is not None
    outcome = distill_student(
        student=context.untrained_student(student.seed),
        objective=objective,
        traces=traces,
        signals=signals,
        teacher=context.teacher(source.teacher, student.calibration) if live and source.teacher else None,
        settings=student_settings(context, student),
        autocast_dtype=context.student_dtype,
        folder=folder,
        recorded_by=context.teacher_tokenizer() if signals is not None and objective.crosses_tokenizers else None,
    )
    tokens = None if resumed else int(outcome["tokens"])  # those before the interruption are in no time that is known
    if not is_main():
        return tokens
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_json(folder / "done.json", outcome | {"traces": len(traces)})
    return tokens


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
        learning_rate=task.learning_rates.get(student.objective, settings.learning_rate),
        warmup_steps=settings.warmup_steps,
        on_policy_share=student.on_policy_share,
        max_completion_length=task.max_completion_length,
        save_steps=settings.save_steps,
        seed=context.seed("distill", student.seed),
        activation_checkpointing=settings.activation_checkpointing,
    )
