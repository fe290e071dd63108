"""The diagnose stage: what awaits students of each teacher, measured with a probe; what the distilled ones show."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillability.config.recipe import Diagnose
from distillability.diagnosis import Diagnosis
from distillability.diagnosis.diagnose import diagnose_pair
from distillability.diagnosis.forward import Pair
from distillability.diagnosis.predictor import forecast, no_forecast
from distillability.diagnosis.probe import train_and_ask
from distillability.files import write_json
from distillability.models.load import LoadedModel
from distillability.runs.context import TaskContext
from distillability.runs.jobs import Job
from distillability.runs.paths import calibration_folder, diagnosis_file, traces_file
from distillability.runs.students import Student, calibrations_of, students
from distillability.stages.distill import student_settings
from distillability.stages.traces import draw_traces, load_traces
from distillability.training.distill_student import StudentSettings

__all__ = ["diagnosis_jobs", "recipes_probe", "stand_in"]


def diagnosis_jobs(context: TaskContext) -> list[Job]:
    """One job for the plain teacher, for every calibrated one that is there, for further sources, and for the students that are there."""
    jobs = []
    teachers: list[tuple[str, int | None]] = [("plain", None)]
    for name in context.recipe.calibrate.teachers:
        numbers = range(context.recipe.calibrate.calibrations)
        teachers += [(name, number) for number in numbers if (_calibrated(context, name, number) / "done.json").exists()]
    sources = [(name, number, f"what awaits students of {name}", _diagnose_teacher) for name, number in teachers]
    sources += [(name, number, f"what students of {name} will reach", _forecast_source) for name, number in _further_sources(context)]
    for name, calibration, title, function in sources:
        proof = diagnosis_file(context.run, context.task_name, name, calibration)
        arguments = {"context": context, "name": name, "calibration": calibration, "proof": proof}
        jobs.append(Job(f"{context.task_name}: {title}", proof, "diagnosis", function, arguments, trains_alone=True))
    for student in _distilled(context):
        proof = diagnosis_file(context.run, context.task_name, student.source, student.calibration, student.objective, student.seed)
        jobs.append(
            Job(
                f"{context.task_name}: {student.title}",
                proof,
                "diagnosis",
                _diagnose_student,
                {"context": context, "student": student, "proof": proof},
            )
        )
    return jobs


def _diagnose_teacher(context: TaskContext, name: str, calibration: int | None, proof: Path) -> None:
    """With a student that has taken the probe's few steps; its weights are thrown away."""
    settings = context.recipe.diagnose or Diagnose()
    pair = _pair(context, context.teacher(name, calibration), context.untrained_student(0), settings)
    found = diagnose_pair(pair, distilled=False, probe=recipes_probe(context), proxy=stand_in(context))
    _write(context, proof, found, source=name, calibration=calibration, objective=None, seed=None)


def _forecast_source(context: TaskContext, name: str, calibration: int | None, proof: Path) -> None:
    """The forecast alone, from texts that were bought, or drawn for it."""
    began = time.perf_counter()
    settings, probe = context.recipe.diagnose or Diagnose(), recipes_probe(context)
    assert probe is not None  # else there is no such job
    file = traces_file(context.run, context.task_name, name, calibration)
    if file.exists():
        traces = load_traces(file, settings.probe_traces)
    else:
        traces, _ = draw_traces(context, context.source(name), calibration, context.task.prompts("query", settings.probe_traces))
    proxy = stand_in(context)
    loaded, who = (context.untrained_student(0), "student") if proxy is None else (proxy, "proxy")
    prompts = context.task.prompts("validate", settings.prompts)
    probed, outcome = train_and_ask(loaded, who, traces, context.task, prompts, probe, context.student_dtype)
    finding = (
        no_forecast(outcome["reason"]) if probed is None else forecast(probed, texts_alone=True)
    )  # these are not the teacher's own texts
    cost = {"seconds": time.perf_counter() - began, "forwards": {who: outcome["forwards"]}}
    found = Diagnosis(context.config.teacher, loaded.reference, context.task_name, [finding], cost, outcome)
    _write(context, proof, found, source=name, calibration=calibration, objective=None, seed=None)


def recipes_probe(context: TaskContext) -> StudentSettings | None:
    """The recipe's headline student, cut off after the probe's steps; None where no probe is asked for."""
    settings = context.recipe.diagnose or Diagnose()
    headline = Student("plain", None, "seqkd", 0.0, context.config.queries, context.config.steps, 0)
    return replace(student_settings(context, headline), steps=settings.probe_steps) if settings.probe_steps else None


def stand_in(context: TaskContext) -> LoadedModel | None:
    """The proxy where students start from random weights: fifty steps teach those no language."""
    return context.load(context.config.proxy) if context.recipe.distill.student_init == "random" else None


def _diagnose_student(context: TaskContext, student: Student, proof: Path) -> None:
    source = context.source(student.source)
    teacher = context.teacher(source.teacher or "plain", student.calibration)
    pair = _pair(context, teacher, context.load(student.folder(context) / "model"), context.recipe.diagnose or Diagnose())
    found = diagnose_pair(pair, distilled=True, probe=None)
    _write(context, proof, found, source=student.source, calibration=student.calibration, objective=student.objective, seed=student.seed)


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


def _further_sources(context: TaskContext) -> list[tuple[str, int | None]]:
    """Sources besides the teachers' own texts that a forecast is made for: those asked for, and those whose texts were bought."""
    settings = context.recipe.diagnose or Diagnose()
    if not settings.probe_steps:
        return []
    bought = {
        (student.source, student.calibration)
        for student in students(context)
        if traces_file(context.run, context.task_name, student.source, student.calibration).with_suffix(".done.json").exists()
    }
    asked = {(name, number) for name in settings.sources for number in calibrations_of(context.recipe, name)}
    teachers = {"plain", *context.recipe.calibrate.teachers}
    made = {
        (name, number)
        for name, number in bought | asked
        if number is None or (_calibrated(context, context.source(name).teacher or "", number) / "done.json").exists()
    }
    return sorted(((name, number) for name, number in made if name not in teachers), key=lambda one: (one[0], one[1] or 0))


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
