"""The evaluate stage: teachers and students answer the validate and test prompts; then every number of `results.json` is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distillability.budgets import SCORED_TEXTS
from distillability.evaluation.harness import Evaluation, evaluate_model
from distillability.files import write_json, write_jsonl
from distillability.inference.likelihood import Likelihood
from distillability.models.load import LoadedModel
from distillability.ops.statistics import pearson
from distillability.rewards.compatibility import compatibility
from distillability.runs.context import TaskContext
from distillability.runs.evaluation_files import samples_file, student_before_file, student_file, teacher_file
from distillability.runs.jobs import Job
from distillability.runs.paths import numbered
from distillability.runs.students import Student, students

__all__ = ["evaluation_jobs"]

_SHOWN = 24  # prompts whose texts are kept for the report


def evaluation_jobs(context: TaskContext) -> list[Job]:
    """One job for every teacher, every untrained student seed, and every student."""
    jobs = []
    teachers: list[tuple[str, int | None]] = [("plain", None)]
    for name in context.recipe.calibrate.teachers:
        teachers += [(name, calibration) for calibration in range(context.recipe.calibrate.calibrations)]
    for name, calibration in teachers:
        proof = teacher_file(context, name, calibration)
        arguments = {"context": context, "name": name, "calibration": calibration, "proof": proof}
        title = f"{context.task_name}: teacher {numbered(name, calibration)}"
        jobs.append(Job(title, proof, "a teacher's answers", _evaluate_teacher, arguments))
    wanted = students(context)
    for seed in sorted({student.seed for student in wanted}):
        proof = student_before_file(context, seed)
        jobs.append(
            Job(
                f"{context.task_name}: student before, seed {seed}",
                proof,
                "a student's answers",
                _evaluate_before,
                {"context": context, "seed": seed, "proof": proof},
            )
        )
    for student in wanted:
        proof = student_file(context, student)
        arguments = {"context": context, "student": student, "proof": proof}
        title = f"{context.task_name}: student of {student.title}"
        jobs.append(Job(title, proof, "a student's answers", _evaluate_student, arguments))
    return jobs


def _evaluate(
    context: TaskContext, loaded: LoadedModel, dtype: torch.dtype | None, split: str, n: int, samples: int, *seed: object
) -> Evaluation:
    return evaluate_model(
        loaded,
        context.task,
        context.task.prompts(split, n),  # type: ignore[arg-type]
        decoding="sampled" if samples else "greedy",
        samples=samples,
        max_new_tokens=context.config.max_completion_length,
        seed=context.seed("evaluate", split, *seed),
        batch_size=context.recipe.evaluate.batch_size,
        autocast_dtype=dtype,
    )


def _evaluate_teacher(context: TaskContext, name: str, calibration: int | None, proof: Path) -> int:
    settings = context.recipe.evaluate
    loaded = context.teacher(name, calibration)
    found: dict[str, Any] = {}
    greedy = _evaluate(context, loaded, context.teacher_dtype, "test", settings.teacher_prompts, 0, name, calibration)
    found["test"] = {"greedy": greedy.summary()}
    shown = greedy
    if settings.teacher_samples:
        sampled = _evaluate(
            context, loaded, context.teacher_dtype, "test", settings.teacher_prompts, settings.teacher_samples, name, calibration
        )
        found["test"]["sampled"] = sampled.summary()
        shown_texts = _first_texts(context, sampled, min(SCORED_TEXTS, settings.teacher_prompts))
        own = context.scorer(loaded).score(*shown_texts)
        del loaded  # two teachers at once may be more than a device holds
        found["texts"] = _describe_texts(context, own, sampled, shown_texts)
        shown = sampled
    _write_samples(context, shown, proof)
    write_json(proof, found)
    return _n_tokens(found)


def _first_texts(context: TaskContext, sampled: Evaluation, n: int) -> tuple[list[str], list[str], list[bool]]:
    """Prompts, one text each, and whether it was cut off: what a scorer asks for."""
    return [prompt.text for prompt in context.task.prompts("test", n)], sampled.texts[:n], sampled.truncated[:n]


def _describe_texts(
    context: TaskContext, own: Sequence[Likelihood | None], sampled: Evaluation, columns: tuple[list[str], list[str], list[bool]]
) -> dict[str, Any]:
    """How far a teacher's own sampled texts are from the plain teacher, in nats; and what the proxy thinks of them.

    Means over the texts that every model concerned can score; a mean over none is None.
    """
    texts, n = columns[1], len(columns[1])
    plain = context.scorer(context.plain()).score(*columns)
    proxy = context.scorer(context.load(context.config.proxy)).score(*columns)
    scored = [(a, b) for a, b in zip(own, plain, strict=True) if a is not None and b is not None]
    values = compatibility(proxy, plain, context.recipe.calibrate.normaliser)
    right = torch.tensor([grade.right for grade in sampled.grades[:n]]) & ~values.isnan()
    lengths = torch.tensor([float(len(text.encode())) for text in texts], dtype=torch.float64)
    return {
        "n": len(scored),
        "anchor_nats": sum(a.logprob - b.logprob for a, b in scored) / len(scored) if scored else None,
        "nats_per_byte_under_plain": sum(-b.logprob for _, b in scored) / sum(b.n_bytes for _, b in scored) if scored else None,
        "compatibility": values[right].mean().item() if right.any() else None,
        "correlation_compatibility_bytes": pearson(values[right], lengths[right]),
    }


def _evaluate_before(context: TaskContext, seed: int, proof: Path) -> int:
    return _evaluate_small(context, context.untrained_student(seed), proof, "before", seed)


def _evaluate_student(context: TaskContext, student: Student, proof: Path) -> int:
    return _evaluate_small(context, context.load(student.folder(context) / "model"), proof, student)


def _evaluate_small(context: TaskContext, loaded: LoadedModel, proof: Path, *seed: object) -> int:
    """A student: validate greedy (where attackers are chosen), test greedy and sampled."""
    settings = context.recipe.evaluate
    greedy = _evaluate(context, loaded, context.student_dtype, "test", settings.student_prompts, 0, *seed)
    found: dict[str, Any] = {
        "validate": {
            "greedy": _evaluate(context, loaded, context.student_dtype, "validate", settings.validate_prompts, 0, *seed).summary()
        },
        "test": {"greedy": greedy.summary()},
    }
    if settings.student_samples:
        found["test"]["sampled"] = _evaluate(
            context, loaded, context.student_dtype, "test", settings.student_prompts, settings.student_samples, *seed
        ).summary()
    _write_samples(context, greedy, proof)
    write_json(proof, found)
    return _n_tokens(found)


def _n_tokens(found: dict[str, Any]) -> int:
    return sum(of["n_tokens"] for split in ("validate", "test") for of in found.get(split, {}).values())


def _write_samples(context: TaskContext, evaluation: Evaluation, proof: Path) -> None:
    prompts = context.task.prompts("test", _SHOWN)
    rows = [
        {
            "prompt": prompt.text,
            "answer": prompt.answer,
            "text": text,
            "right": grade.right,
            "right_steps": grade.right_steps,
            "mode": grade.mode,
        }
        for prompt, text, grade in zip(prompts, evaluation.texts, evaluation.grades, strict=False)
    ]
    write_jsonl(samples_file(proof), rows)
