"""The calibrate stage: is the proxy fit to steer, how wide does C spread, then one job for every teacher and repetition."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distillability.config.recipe import Teacher
from distillability.errors import Problem, UserError
from distillability.files import read_json, write_json
from distillability.rewards.admission import admit
from distillability.rewards.compatibility import compatibility
from distillability.rewards.compose import compatibility_scale
from distillability.rewards.length import length_reward
from distillability.rewards.right import counts_as_right
from distillability.rollouts import complete
from distillability.stages.context import TaskContext
from distillability.stages.jobs import Job
from distillability.stages.layout import admission_file, calibration_folder
from distillability.training.calibrate import calibrate_teacher
from distillability.types import Grade, Prompt

__all__ = ["admission_jobs", "calibration_jobs"]


def admission_jobs(context: TaskContext) -> list[Job]:
    """One job for the task's proxy."""
    proof = admission_file(context.run, context.task_name)
    return [Job(f"{context.task_name}: proxy admission", proof, _admission, {"context": context, "proof": proof})]


def calibration_jobs(context: TaskContext) -> list[Job]:
    """One job for every calibrated teacher and repetition.

    Raises:
        UserError: the proxy fails admission and the recipe does not force it; or a reward has no scale.
    """
    admission = read_json(admission_file(context.run, context.task_name))
    if not admission["passed"] and not context.recipe.calibrate.force:
        raise UserError.single(
            f"tasks.{context.task_name}.proxy = {context.config.proxy}", f"fails admission: {admission['summary']}", admission["advice"]
        )
    problems = _without_scale(context, admission["scale"])
    if problems:
        raise UserError(problems)
    jobs = []
    for calibration in range(context.recipe.calibrate.calibrations):
        for name in context.recipe.calibrate.teachers:
            folder = calibration_folder(context.run, context.task_name, name, calibration)
            arguments = {"context": context, "name": name, "calibration": calibration, "folder": folder}
            jobs.append(Job(f"{context.task_name}: {name} #{calibration}", folder / "done.json", _calibrate, arguments))
    return jobs


def _admission(context: TaskContext, proof: Path) -> None:
    settings = context.recipe.calibrate
    plain, proxy = context.plain(), context.load(context.config.proxy)
    prompts = context.task.prompts("calibrate", settings.scale_prompts)
    completions = complete(
        plain,
        [prompt.text for prompt in prompts],
        decoding="sampled",
        max_new_tokens=context.config.max_completion_length,
        seed=context.seed("admission"),
        samples=settings.num_generations,
        autocast_dtype=context.teacher_dtype,
    )
    asked = [prompt for prompt in prompts for _ in range(settings.num_generations)]
    columns = [prompt.text for prompt in asked], completions.texts, completions.truncated
    grades = [
        Grade(right=False) if cut else context.task.grade(prompt, text)
        for prompt, text, cut in zip(asked, completions.texts, completions.truncated, strict=True)
    ]
    right = [counts_as_right(grade, settings.require) for grade in grades]
    proxy_scores, reference_scores = context.scorer(proxy).score(*columns), context.scorer(plain).score(*columns)
    planted = [(prompt, text) for prompt in prompts if (text := context.task.wrong_steps(prompt)) is not None]
    admission = admit(
        proxy=proxy_scores,
        reference=reference_scores,
        right=right,
        group_size=settings.num_generations,
        easy=[None if grade.mode is None else grade.mode in context.task.easy_modes for grade in grades],
        planted_wrong=context.scorer(proxy).score([prompt.text for prompt, _ in planted], [text for _, text in planted]),
    )
    shape = (-1, settings.num_generations)
    counted = torch.tensor(right).view(shape)
    values = compatibility(proxy_scores, reference_scores, settings.normaliser).view(shape)
    lengths = length_reward(completions.texts, completions.truncated).view(shape)
    write_json(
        proof,
        asdict(admission)
        | {
            "proxy": context.config.proxy,
            "forced": settings.force and not admission.passed,
            "scale": {"compatibility": compatibility_scale(values, counted), "length": compatibility_scale(lengths, counted)},
            "mean_compatibility": _mean_by_mode(values.flatten(), right, grades),
        },
    )


def _mean_by_mode(values: torch.Tensor, right: list[bool], grades: list[Grade]) -> dict[str, float]:
    """Mean C of the right texts of each mode."""
    means = {}
    for mode in sorted({grade.mode for grade in grades if grade.mode is not None}):
        rows = torch.tensor([ok and grade.mode == mode for ok, grade in zip(right, grades, strict=True)]) & ~values.isnan()
        if rows.any():
            means[mode] = values[rows].mean().item()
    return means


def _calibrate(context: TaskContext, name: str, calibration: int, folder: Path) -> None:
    settings = context.recipe.calibrate
    teacher = settings.teachers[name]
    admission = read_json(admission_file(context.run, context.task_name))
    prompts = _prompts(context, calibration)
    outcome = calibrate_teacher(
        loaded=context.plain(),
        proxy=context.load(context.config.proxy) if teacher.reward == "compatibility" else None,
        task=context.task,
        prompts=prompts,
        teacher=teacher,
        settings=settings,
        scale=float(admission["scale"][teacher.reward] or 1.0),  # only a knob of 0, which scales nothing, comes here without one
        max_completion_length=context.config.max_completion_length,
        seed=context.seed("calibrate", calibration),
        autocast_dtype=context.teacher_dtype,
        folder=folder,
    )
    _write_card(context, name, teacher, outcome, folder / "model")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_json(folder / "done.json", outcome | {"knob": teacher.knob, "reward": teacher.reward, "calibration": calibration})


def _prompts(context: TaskContext, calibration: int) -> list[Prompt]:
    """Fresh prompts for every repetition, so that two calibrations differ by more than sampling noise."""
    settings = context.recipe.calibrate
    needed = settings.prompts_per_step * settings.max_steps
    return context.task.prompts("calibrate", needed * (calibration + 1))[-needed:]


def _without_scale(context: TaskContext, scales: dict[str, float | None]) -> list[Problem]:
    """One problem for every reward that a teacher asks for and that has no scale, or a scale of 0, on the plain teacher."""
    settings = context.recipe.calibrate
    right = f'answers that count as right (calibrate.require = "{settings.require}")'
    problems = []
    steered = {name: teacher for name, teacher in settings.teachers.items() if teacher.knob}
    for reward in sorted({teacher.reward for teacher in steered.values()}):
        names = ", ".join(name for name, teacher in steered.items() if teacher.reward == reward)
        where = f"calibrate.teachers ({names}), task {context.task_name}"
        if scales[reward] is None:
            what = (
                f"the knob has no scale: none of {settings.scale_prompts} prompts got two {right} and have a {reward} "
                f"from the plain teacher {context.config.teacher}"
            )
            mend = (
                "raise calibrate.scale_prompts or calibrate.num_generations, or the task's max_completion_length where answers are cut; "
                "else take a teacher that is right more often"
            )
            problems.append(Problem(where, what, mend))
        elif not scales[reward]:
            what = f"the knob has no scale: the plain teacher's {right} have the same {reward} within each prompt"
            mend = "take another proxy" if reward == "compatibility" else "leave out the teachers with this reward"
            problems.append(Problem(where, what, f"raise calibrate.scale_prompts, or {mend}"))
    return problems


def _write_card(context: TaskContext, name: str, teacher: Teacher, outcome: dict[str, Any], model: Path) -> None:
    """The model card: what was done to this teacher, and what was not tested."""
    settings = context.recipe.calibrate
    (model / "README.md").write_text(
        f"""---
library_name: transformers
tags: [distillability]
---
# {name}: a teacher calibrated for distillability

| | |
|---|---|
| original teacher | `{context.config.teacher}` |
| knob | {teacher.knob:+g} (> 0 raises distillability, < 0 lowers it) |
| calibration reward | {teacher.reward}, per {settings.normaliser.removesuffix("s")} |
| proxy | `{context.config.proxy}` |
| task | {context.task_name} |
| steps | {outcome["kept_step"]}{f" ({outcome['stopped']})" if outcome["stopped"] else ""} |
| anchor | K3, coefficient {settings.anchor_coefficient} |

Accuracy before and after, and students' accuracy, are in the `results.json` of the run that made this model.

Not tested: tasks other than {context.task_name}, attackers with access to the weights, and every attack that the run's report does not
list. A lowered distillability lowers the yield of the attacks tried; it does not rule out distillation.
""",
        encoding="utf-8",
    )
