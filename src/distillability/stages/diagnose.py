"""The diagnose stage: what awaits students of each teacher, measured with a probe; what the distilled ones show."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distillability.config.recipe import Diagnose
from distillability.files import read_json, write_json
from distillability.models.load import LoadedModel, load_model
from distillability.objectives import build_objective
from distillability.results import Row
from distillability.stages.context import TaskContext
from distillability.stages.distill import student_settings
from distillability.stages.evidence import add_symptoms, draw, draw_all, read_all
from distillability.stages.jobs import Job
from distillability.stages.layout import calibration_folder, diagnosis_file
from distillability.stages.students import Student, students
from distillability.stages.traces import usable
from distillability.stages.tracing import Pair
from distillability.tasks import Task
from distillability.training.distill import StudentSettings, distill_student
from distillability.traps import Diagnosis, find
from distillability.types import Trace

__all__ = ["diagnose", "diagnosis_jobs", "diagnosis_rows"]


def diagnose(
    teacher: LoadedModel | str,
    student: LoadedModel | str,
    task: Task,
    *,
    distilled: bool = False,
    settings: Diagnose | None = None,
    max_completion_length: int = 256,
    learning_rate: float = 1e-4,
    batch_size: int = 48,
    seed: int = 0,
) -> Diagnosis:
    """Which traps await `student` when it is distilled from `teacher` on `task`, or which symptoms it shows once it has been.

    Args:
        distilled: the student has been distilled: its symptoms are measured too, and no probe is trained.
        settings: how much is looked at.
        max_completion_length: longest completion, in tokens of the model that writes it.
        learning_rate, batch_size: of the probe, the student after a few steps (`settings.probe_steps`), which is what is measured.

    Returns:
        findings that print as a table, in a notebook as HTML. The student is not changed unless it is given as a loaded model and a probe
        is trained: then it becomes that probe.

    Raises:
        UserError: a model cannot be loaded, or has no chat template or end of turn.
    """
    loaded = [load_model(model) if isinstance(model, str) else model for model in (teacher, student)]
    settings = settings or Diagnose()
    pair = Pair(loaded[0], loaded[1], task, settings, max_completion_length, seed)
    steps = 0 if distilled else settings.probe_steps
    how = _probe_settings(steps, batch_size, learning_rate, max_completion_length, seed)
    return _diagnose(pair, distilled=distilled, probe=how if steps else None)


def diagnosis_jobs(context: TaskContext) -> list[Job]:
    """One job for the plain teacher, for every calibrated one that is there, and for the students that are there (the first seeds)."""
    jobs = []
    teachers: list[tuple[str, int | None]] = [("plain", None)]
    for name in context.recipe.calibrate.teachers:
        numbers = range(context.recipe.calibrate.calibrations)
        teachers += [(name, number) for number in numbers if (_calibrated(context, name, number) / "done.json").exists()]
    for name, calibration in teachers:
        proof = diagnosis_file(context.run, context.task_name, name, calibration)
        arguments = {"context": context, "name": name, "calibration": calibration, "proof": proof}
        jobs.append(Job(f"{context.task_name}: what awaits students of {name}", proof, _diagnose_teacher, arguments))
    for student in _distilled(context):
        proof = diagnosis_file(context.run, context.task_name, student.source, student.calibration, student.objective, student.seed)
        jobs.append(
            Job(f"{context.task_name}: {student.title}", proof, _diagnose_student, {"context": context, "student": student, "proof": proof})
        )
    return jobs


def diagnosis_rows(context: TaskContext) -> list[Row]:
    """A row of `results.json` for every finding of every diagnosis that is there."""
    rows = []
    for file in sorted((context.run / "diagnose" / context.task_name).rglob("*.json")):
        found = read_json(file)
        common = {key: found[key] for key in ("task", "source", "calibration", "knob", "student", "objective", "seed")}
        for finding in found["findings"]:
            rows.append(
                Row(
                    **common,
                    split="validate",
                    role="teacher" if found["objective"] is None else "student",
                    metric=finding["name"],
                    value=finding["value"],
                    ci_low=finding["low"],
                    ci_high=finding["high"],
                    interval=finding["method"],
                    n=finding["n"],
                    reason=finding["reason"],
                )
            )
        seconds = found["cost"]["seconds"]
        rows.append(Row(**common, split="validate", role="teacher", metric="diagnosis_seconds", value=seconds, n=1, seconds=seconds))
    return rows


def _diagnose_teacher(context: TaskContext, name: str, calibration: int | None, proof: Path) -> None:
    """With a student that has taken the probe's few steps; its weights are thrown away."""
    settings = context.recipe.diagnose or Diagnose()
    pair = _pair(context, context.teacher(name, calibration), context.untrained_student(0), settings)
    headline = Student(name, calibration, "seqkd", 0.0, context.config.queries, context.config.steps, 0)
    probe = replace(student_settings(context, headline), steps=settings.probe_steps)
    found = _diagnose(pair, distilled=False, probe=probe if probe.steps else None)
    _write(context, proof, found, source=name, calibration=calibration, objective=None, seed=None)


def _diagnose_student(context: TaskContext, student: Student, proof: Path) -> None:
    source = context.source(student.source)
    teacher = context.teacher(source.teacher or "plain", student.calibration)
    pair = _pair(context, teacher, context.load(student.folder(context) / "model"), context.recipe.diagnose or Diagnose())
    found = _diagnose(pair, distilled=True, probe=None)
    _write(context, proof, found, source=student.source, calibration=student.calibration, objective=student.objective, seed=student.seed)


def _diagnose(pair: Pair, *, distilled: bool, probe: StudentSettings | None) -> Diagnosis:
    began = time.perf_counter()
    outcome = None if probe is None else _train_probe(pair, probe)
    drawn = draw_all(pair)
    evidence = read_all(pair, drawn)
    if distilled:
        add_symptoms(pair, drawn, evidence)
    findings = find(evidence, symptoms=distilled)
    cost = {"seconds": time.perf_counter() - began, "forwards": dict(pair.forwards)}
    return Diagnosis(pair.teacher.reference, pair.student.reference, pair.task.name, findings, cost, outcome)


def _train_probe(pair: Pair, settings: StudentSettings) -> dict[str, Any]:
    """Let the student take a few steps on texts of the teacher, as it would in earnest."""
    prompts = pair.task.prompts("query", pair.settings.probe_traces)
    drawn = draw(pair, "teacher", prompts)
    traces = usable(
        [Trace(prompt.id, prompt.text, text, cut) for prompt, text, cut in zip(prompts, drawn.texts, drawn.truncated, strict=True)]
    )
    if not traces:
        return {"steps": 0, "traces": 0, "reason": "the teacher completed no text within max_completion_length"}
    with TemporaryDirectory() as folder:
        outcome = distill_student(
            student=pair.student,
            objective=build_objective("seqkd"),
            traces=traces,
            signals=None,
            teacher=None,
            settings=settings,
            autocast_dtype=pair.autocast["student"],
            folder=Path(folder),
        )
    pair.forwards["student"] += outcome["steps"] * settings.batch_size * settings.gradient_accumulation_steps
    return outcome | {"traces": len(traces)}


def _probe_settings(steps: int, batch_size: int, learning_rate: float, max_completion_length: int, seed: int) -> StudentSettings:
    return StudentSettings(
        steps=steps,
        batch_size=batch_size,
        gradient_accumulation_steps=1,
        learning_rate=learning_rate,
        warmup_steps=steps // 4,
        on_policy_share=0.0,
        max_completion_length=max_completion_length,
        save_steps=max(1, steps),
        seed=seed,
    )


def _pair(context: TaskContext, teacher: LoadedModel, student: LoadedModel, settings: Diagnose) -> Pair:
    return Pair(
        teacher,
        student,
        context.task,
        settings,
        context.config.max_completion_length,
        context.seed("diagnose"),
        {"teacher": context.teacher_dtype, "student": context.student_dtype},
    )


def _write(context: TaskContext, proof: Path, found: Diagnosis, *, source: str, **which: Any) -> None:
    asked = context.recipe.calibrate.teachers.get(context.source(source).teacher or "")
    named = {"source": source, "knob": asked.knob if asked else None, "student": context.config.student, **which}
    write_json(proof, found.as_dict() | {"task": context.task_name} | named)


def _calibrated(context: TaskContext, name: str, calibration: int) -> Path:
    return calibration_folder(context.run, context.task_name, name, calibration)


def _distilled(context: TaskContext) -> list[Student]:
    """Students that are there: the first seeds of each source and objective, at the headline budget."""
    settings, headline = context.recipe.diagnose or Diagnose(), (context.config.queries, context.config.steps)
    return [
        student
        for student in students(context)
        if student.seed < settings.seeds
        and not student.calibration
        and not student.on_policy_share
        and (student.queries, student.steps) == headline
        and (student.folder(context) / "done.json").exists()
    ]
