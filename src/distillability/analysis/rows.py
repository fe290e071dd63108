"""From evaluation files to `results.json`: every row, every interval, every derived measure, and the samples shown side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillability import __version__
from distillability.analysis.comparisons import comparison_rows
from distillability.analysis.diagnosis_rows import diagnosis_rows
from distillability.analysis.evaluations import Measured
from distillability.analysis.sweep_rows import dose_rows
from distillability.evaluation.intervals import Interval, prompt_mean, two_way_mean
from distillability.files import read_json, read_jsonl, write_jsonl
from distillability.results import Budget, Results, Row, RunInfo, write_results
from distillability.runs.context import TaskContext
from distillability.runs.evaluation_files import (
    samples_file,
    student_file,
    teacher_file,
)
from distillability.runs.folder import RunFolder
from distillability.runs.paths import calibration_folder, traces_file
from distillability.runs.students import Student

__all__ = ["summarise"]

_SHARES = ("right", "right_steps", "answer_only")
_METRICS = {"right": "accuracy", "right_steps": "right_steps", "answer_only": "answer_only_share"}


def summarise(contexts: Sequence[TaskContext], folder: RunFolder, *, diagnosed: bool) -> None:
    """Write `results.json` and `samples.jsonl` from what has been evaluated so far; `complete` only when nothing is missing.

    Args:
        diagnosed: every diagnosis that the recipe asks for is there.
    """
    rows: list[Row] = []
    for context in contexts:
        measured = Measured(context)
        rows += [*_teacher_rows(measured), *_source_rows(measured), *_student_rows(measured), *comparison_rows(measured)]
        rows += [*dose_rows(measured), *diagnosis_rows(context)]
    recipe = folder.recipe
    manifest = folder.manifest
    info = RunInfo(
        name=recipe.name,
        recipe_digest=folder.digest,
        version=__version__,
        seconds=sum(manifest.get("seconds", {}).values()) or None,
        complete=diagnosed and all(Measured(context).complete for context in contexts),
        queries={context.task_name: context.config.queries for context in contexts},
        steps={context.task_name: context.config.steps for context in contexts},
        chance={context.task_name: context.task.chance for context in contexts},
        notes={"autocast": manifest.get("autocast", {}), "workers": recipe.workers},
    )
    write_jsonl(folder.path / "samples.jsonl", (sample for context in contexts for sample in _samples(Measured(context))))
    write_results(Results(run=info, rows=rows), folder.path / "results.json")


def _interval_fields(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "interval": interval.method, "n": interval.n}


# Teachers


def _teacher_rows(measured: Measured) -> Iterator[Row]:
    for name, calibration in measured.teachers:
        found = measured.teacher(name, calibration)
        common = {
            "task": measured.task,
            "split": "test",
            "role": "teacher",
            "source": name,
            "knob": measured.knob(name),
            "proxy": measured.proxy(name),
            "calibration": calibration,
        }
        for decoding, evaluation in found["test"].items():
            yield from _share_rows(measured, evaluation, common | {"decoding": decoding})
        if "texts" in found:
            yield from _text_rows(found["texts"], common | {"decoding": "sampled"})
        if calibration is not None:
            done = read_json(calibration_folder(measured.context.run, measured.task, name, calibration) / "done.json")
            yield Row(**common, metric="calibration_seconds", value=done["seconds"], n=1, seconds=done["seconds"])
            yield Row(**common, metric="calibration_steps", value=done["kept_step"], n=1)


def _share_rows(measured: Measured, evaluation: dict[str, Any], common: dict[str, Any]) -> Iterator[Row]:
    n, cut = len(evaluation["right"]), evaluation["n_truncated"]
    for key in _SHARES:
        values = evaluation[key]
        if values is None:
            every = cut == n * evaluation["samples"]
            why = "every answer was cut off at the length limit" if every else f"the task {measured.task} cannot tell"
            yield Row(**common, metric=_METRICS[key], value=None, n=n, n_truncated=cut, reason=why)
        else:
            interval = prompt_mean(values, confidence=measured.context.recipe.evaluate.confidence)
            yield Row(**common, metric=_METRICS[key], n_truncated=cut, **_interval_fields(interval))
    yield Row(**common, metric="bytes", value=evaluation["mean_bytes"], n=n, n_truncated=cut)
    for mode, share in evaluation["modes"].items():
        yield Row(**common, metric=f"share_{mode}", value=share, n=n, n_truncated=cut)


def _text_rows(texts: dict[str, Any], common: dict[str, Any]) -> Iterator[Row]:
    for metric in ("anchor_nats", "nats_per_byte_under_plain", "compatibility", "correlation_compatibility_bytes"):
        value = texts[metric]
        reason = None if value is not None else "no complete text that every model involved can score, or no spread among them"
        yield Row(**common, metric=metric, value=value, n=texts["n"], reason=reason)


def _source_rows(measured: Measured) -> Iterator[Row]:
    """How right the texts were that students were given: what a source's tricks cost or bring in the teacher's own answers."""
    for source, calibration in dict.fromkeys((student.source, student.calibration) for student in measured.students):
        rows = read_jsonl(traces_file(measured.context.run, measured.task, source, calibration))
        cut = sum(row["truncated"] for row in rows)
        common = {
            "task": measured.task,
            "split": "query",
            "role": "teacher",
            "source": source,
            "knob": measured.knob(source),
            "calibration": calibration,
            "decoding": measured.context.source(source).decoding,
            "n_truncated": cut,
        }
        for key in ("right", "right_steps"):
            told = [row[key] for row in rows if not row["truncated"]]
            if None in told or not (told or key == "right"):
                why = f"the task {measured.task} cannot tell" if told else "every text was cut off at the length limit"
                yield Row(**common, metric=_METRICS[key], value=None, reason=why)
            else:
                interval = prompt_mean(
                    [float(value) for value in told] + [0.0] * cut, confidence=measured.context.recipe.evaluate.confidence
                )
                yield Row(**common, metric=_METRICS[key], **_interval_fields(interval))


# Students


def _student_rows(measured: Measured) -> Iterator[Row]:
    before = {"task": measured.task, "role": "student", "source": "none", "student": measured.context.config.student}
    yield from _seed_rows(measured, measured.before(), list(range(len(measured.before()))), before)
    groups: dict[tuple[Any, ...], list[Student]] = {}
    for student in measured.students:
        key = (student.source, student.calibration, student.objective, student.on_policy_share, student.queries, student.steps)
        groups.setdefault(key, []).append(student)
    for members in groups.values():
        first = members[0]
        common = {
            "task": measured.task,
            "role": "student",
            "source": first.source,
            "knob": measured.knob(first.source),
            "proxy": measured.proxy(first.source),
            "calibration": first.calibration,
            "student": measured.context.config.student,
            "objective": first.objective,
            "prefix": first.on_policy_share or "teacher",
            "budget": _budget(measured, first),
        }
        found = [measured.student(student) for student in members]
        yield from _seed_rows(measured, found, [student.seed for student in members], common)


def _budget(measured: Measured, student: Student) -> Budget:
    done = read_json(student.folder(measured.context) / "done.json")
    return Budget(queries=student.queries, steps=student.steps, tokens=done["tokens"])


def _seed_rows(measured: Measured, found: Sequence[dict[str, Any]], seeds: Sequence[int], common: dict[str, Any]) -> Iterator[Row]:
    """A row a seed, then one row over all seeds with an interval over prompts × seeds."""
    if not found:
        return
    settings = measured.context.recipe.evaluate
    for split, decoding in (("validate", "greedy"), ("test", "greedy"), ("test", "sampled")):
        if decoding not in found[0][split]:
            continue
        evaluations = [evaluation[split][decoding] for evaluation in found]
        fields = common | {"split": split, "decoding": decoding}
        for key in ("right", "right_steps"):
            if all(evaluation[key] is None for evaluation in evaluations):
                continue
            # A student whose answers are all cut off has shown no steps to check: they are as wrong as each of its answers.
            values = np.array([evaluation[key] or [0.0] * len(evaluation["right"]) for evaluation in evaluations])
            for seed, row, evaluation in zip(seeds, values, evaluations, strict=True):
                interval = prompt_mean(row, confidence=settings.confidence)
                yield Row(**fields, seed=seed, metric=_METRICS[key], n_truncated=evaluation["n_truncated"], **_interval_fields(interval))
            pooled = two_way_mean(
                values, rng=measured.rng("mean", repr(fields)), resamples=settings.resamples, confidence=settings.confidence
            )
            cut = sum(evaluation["n_truncated"] for evaluation in evaluations)
            yield Row(**fields, metric=_METRICS[key], n_truncated=cut, **_interval_fields(pooled))


# Samples


def _samples(measured: Measured) -> Iterator[dict[str, Any]]:
    """The same prompts answered by every teacher and by one student of each source."""
    speakers: list[tuple[dict[str, Any], Path]] = [
        ({"role": "teacher", "source": name, "objective": None}, samples_file(teacher_file(measured.context, name, number)))
        for name, number in measured.teachers
        if not number
    ]
    headline = (measured.context.config.queries, measured.context.config.steps)
    seen: set[tuple[str, str]] = set()
    for student in measured.students:
        key = (student.source, student.objective)
        if (student.queries, student.steps) == headline and not student.seed and not student.calibration and key not in seen:
            seen.add(key)
            speaker = {"role": "student", "source": student.source, "objective": student.objective}
            speakers.append((speaker, samples_file(student_file(measured.context, student))))
    told = [(speaker, read_jsonl(file)) for speaker, file in speakers]
    for index in range(min((len(rows) for _, rows in told), default=0)):
        first = told[0][1][index]
        texts = [speaker | {key: rows[index][key] for key in ("text", "right", "right_steps", "mode")} for speaker, rows in told]
        yield {"task": measured.task, "prompt": first["prompt"], "answer": first["answer"], "texts": texts}
