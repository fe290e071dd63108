"""The calibrate stage: is the proxy fit to steer, how wide does C spread, then one job for every teacher and repetition."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distillability.config.recipe import Teacher
from distillability.errors import Problem, UserError
from distillability.files import read_json, write_json
from distillability.inference import complete
from distillability.inference.likelihood import Likelihood
from distillability.models.load import LoadedModel
from distillability.rewards.admission import Admission, admit
from distillability.rewards.aggregate import Aggregate, aggregate
from distillability.rewards.compatibility import compatibility, length_reward
from distillability.rewards.compose import compatibility_scale, counts_as_right
from distillability.runs.context import TaskContext
from distillability.runs.jobs import Job
from distillability.runs.paths import admission_file, calibration_folder
from distillability.runs.processes import is_main, world_size
from distillability.stages.card import write_card
from distillability.tasks import Task
from distillability.training.calibrate_teacher import Calibration, calibrate_teacher
from distillability.types import Grade, Prompt

__all__ = ["admission_jobs", "calibration_jobs"]


def admission_jobs(context: TaskContext) -> list[Job]:
    """One job for the task's proxy."""
    proof = admission_file(context.run, context.task_name)
    return [Job(f"{context.task_name}: proxy admission", proof, "admission", _admission, {"context": context, "proof": proof})]


def calibration_jobs(context: TaskContext) -> list[Job]:
    """One job for every calibrated teacher and repetition.

    Raises:
        UserError: the proxy fails admission and the recipe does not force it; or a reward has no scale. Not where nothing is calibrated.
    """
    if not context.recipe.calibrate.teachers:
        return []
    admission = read_json(admission_file(context.run, context.task_name))
    if not admission["passed"] and not context.recipe.calibrate.force:
        raise UserError.single(
            f"tasks.{context.task_name}.proxy = {', '.join(context.config.all_proxies)}",
            f"fails admission: {admission['summary']}",
            admission["advice"],
        )
    problems = _without_scale(context, admission["scale"])
    if problems:
        raise UserError(problems)
    jobs = []
    for calibration in range(context.recipe.calibrate.calibrations):
        for name in context.recipe.calibrate.teachers:
            folder = calibration_folder(context.run, context.task_name, name, calibration)
            arguments = {"context": context, "name": name, "calibration": calibration, "folder": folder}
            title = f"{context.task_name}: {name} #{calibration}"
            jobs.append(Job(title, folder / "done.json", "calibration", _calibrate, arguments, together=True))
    return jobs


@dataclass(frozen=True)
class _Sampled:
    """The plain teacher's own completions, groups of one prompt side by side."""

    prompts: list[Prompt]
    texts: list[str]
    truncated: list[bool]
    grades: list[Grade]
    right: list[bool]
    n_tokens: int

    @property
    def columns(self) -> tuple[list[str], list[str], list[bool]]:
        """What a scorer asks for."""
        return [prompt.text for prompt in self.prompts], self.texts, self.truncated


def _sample(context: TaskContext, plain: LoadedModel) -> _Sampled:
    settings = context.recipe.calibrate
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
    grades = [context.task.grade_completion(*row) for row in zip(asked, completions.texts, completions.truncated, strict=True)]
    right = [counts_as_right(grade, settings.require) for grade in grades]
    return _Sampled(asked, completions.texts, completions.truncated, grades, right, completions.n_tokens)


def _admission(context: TaskContext, proof: Path) -> int:
    """Every proxy is judged by itself, and each must pass; s_C is of the one C that they make together."""
    settings, names = context.recipe.calibrate, context.config.all_proxies
    plain = context.plain()
    sampled = _sample(context, plain)
    reference = context.scorer(plain).score(*sampled.columns)
    found = [_judge(context, name, sampled, reference) for name in names]
    shape = (-1, settings.num_generations)
    right = torch.tensor(sampled.right).view(shape)
    counted = right if settings.gate == "correct" else torch.ones_like(right)
    values = torch.stack([values for _, values in found])
    lengths = length_reward(sampled.texts, sampled.truncated)[None]
    scale = {}
    for name, (rewards, knob) in _scales(values, lengths, settings.proxy_aggregate).items():
        scale[name] = compatibility_scale(aggregate(rewards.view(-1, *counted.shape), counted, settings.proxy_aggregate, knob), right)
    write_json(
        proof,
        _together(names, [admission for admission, _ in found])
        | {
            "proxy": " + ".join(names),
            "forced": settings.force and not all(admission.passed for admission, _ in found),
            "scale": scale,
            "mean_compatibility": _mean_by_mode(values.nanmean(0), sampled.right, sampled.grades),
        },
    )
    return sampled.n_tokens


def _judge(context: TaskContext, name: str, sampled: _Sampled, reference: Sequence[Likelihood | None]) -> tuple[Admission, torch.Tensor]:
    """Whether one proxy is fit to steer, and its C of every completion, [N]."""
    settings, proxy = context.recipe.calibrate, context.scorer(context.load(name))
    planted = _planted(context.task, sampled)
    scores = proxy.score(*sampled.columns)
    admission = admit(
        proxy=scores,
        reference=reference,
        right=sampled.right,
        group_size=settings.num_generations,
        easy=[_is_easy(context.task, grade.mode) for grade in sampled.grades],
        planted_wrong=proxy.score([prompt.text for prompt, _ in planted], [text for _, text in planted]),
    )
    return admission, compatibility(scores, reference, settings.normaliser)


def _is_easy(task: Task, mode: str | None) -> bool | None:
    """None of an answer that is in neither kind of way."""
    return None if mode not in (*task.easy_modes, *task.hard_modes) else mode in task.easy_modes


def _planted(task: Task, sampled: _Sampled) -> list[tuple[Prompt, str]]:
    """A wrong text for each prompt: one with a planted error, or what was right for another prompt where the task can plant none."""
    right = {prompt.id: text for prompt, text, ok in zip(sampled.prompts, sampled.texts, sampled.right, strict=True) if ok}
    prompts = list({prompt.id: prompt for prompt in sampled.prompts}.values())
    pairs = []
    for prompt, other in zip(prompts, prompts[1:] + prompts[:1], strict=True):
        text = task.wrong_steps(prompt)
        if text is None and other.id in right and not task.grade(prompt, right[other.id]).right:
            text = right[other.id]
        if text is not None:
            pairs.append((prompt, text))
    return pairs


def _together(names: Sequence[str], admissions: Sequence[Admission]) -> dict[str, Any]:
    """One record of all proxies' admissions; with several, each check, summary and advice says whose it is."""
    if len(admissions) == 1:
        return asdict(admissions[0])
    named = list(zip(names, admissions, strict=True))
    return {
        "passed": all(admission.passed for admission in admissions),
        "checks": [asdict(check) | {"name": f"{name}: {check.name}"} for name, admission in named for check in admission.checks],
        "summary": "; ".join(f"{name}: {admission.summary}" for name, admission in named),
        "advice": "; ".join(f"{name}: {admission.advice}" for name, admission in named if not admission.passed),
    }


def _scales(values: torch.Tensor, lengths: torch.Tensor, how: Aggregate) -> dict[str, tuple[torch.Tensor, float]]:
    """By the name of each scale what is scaled [K, N], and a knob of the direction for which it holds."""
    if how == "mean" or len(values) == 1:
        return {"compatibility": (values, 1.0), "length": (lengths, 1.0)}
    return {"compatibility": (values, 1.0), "compatibility_down": (values, -1.0), "length": (lengths, 1.0)}


def _scale_name(context: TaskContext, teacher: Teacher) -> str:
    """The worst case over several proxies is another C for either direction of the knob, with another scale."""
    worst = len(context.config.all_proxies) > 1 and context.recipe.calibrate.proxy_aggregate == "worst"
    return "compatibility_down" if worst and teacher.reward == "compatibility" and teacher.knob < 0 else teacher.reward


def _mean_by_mode(values: torch.Tensor, right: list[bool], grades: list[Grade]) -> dict[str, float]:
    """Mean C of the right texts of each mode."""
    means = {}
    for mode in sorted({grade.mode for grade in grades if grade.mode is not None}):
        rows = torch.tensor([ok and grade.mode == mode for ok, grade in zip(right, grades, strict=True)]) & ~values.isnan()
        if rows.any():
            means[mode] = values[rows].mean().item()
    return means


def _calibrate(context: TaskContext, name: str, calibration: int, folder: Path) -> int:
    settings = context.recipe.calibrate
    teacher = settings.teachers[name]
    admission = read_json(admission_file(context.run, context.task_name))
    prompts = _prompts(context, calibration)
    outcome = calibrate_teacher(
        Calibration(
            loaded=context.plain(),
            proxies=[context.load(name) for name in context.config.all_proxies] if teacher.reward == "compatibility" else [],
            task=context.task,
            prompts=prompts,
            teacher=teacher,
            settings=settings,
            scale=float(admission["scale"][_scale_name(context, teacher)] or 1.0),  # only a knob of 0, which scales nothing, has none here
            max_completion_length=context.config.max_completion_length,
            seed=context.seed("calibrate", calibration),
            autocast_dtype=context.teacher_dtype,
            folder=folder,
        )
    )
    tokens: int = outcome["tokens"]
    if not is_main():
        return tokens
    write_card(context, name, teacher, outcome, folder / "model")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_json(folder / "done.json", outcome | {"knob": teacher.knob, "reward": teacher.reward, "calibration": calibration})
    return tokens


def _prompts(context: TaskContext, calibration: int) -> list[Prompt]:
    """Fresh prompts for every repetition, so that two calibrations differ by more than sampling noise."""
    settings = context.recipe.calibrate
    needed = settings.prompts_per_step * settings.max_steps * world_size()
    return context.task.prompts("calibrate", needed * (calibration + 1))[-needed:]


def _without_scale(context: TaskContext, scales: dict[str, float | None]) -> list[Problem]:
    """One problem for every reward that a teacher asks for and that has no scale, or a scale of 0, on the plain teacher."""
    settings = context.recipe.calibrate
    right = f'answers that count as right (calibrate.require = "{settings.require}")'
    problems = []
    steered = {name: teacher for name, teacher in settings.teachers.items() if teacher.knob}
    for scale in sorted({_scale_name(context, teacher) for teacher in steered.values()}):
        names = ", ".join(name for name, teacher in steered.items() if _scale_name(context, teacher) == scale)
        reward = "length" if scale == "length" else "compatibility"
        where = f"calibrate.teachers ({names}), task {context.task_name}"
        if scales[scale] is None:
            what = (
                f"the knob has no scale: none of {settings.scale_prompts} prompts got two {right} and have a {reward} "
                f"from the plain teacher {context.config.teacher}"
            )
            fix = (
                "raise calibrate.scale_prompts or calibrate.num_generations, or the task's max_completion_length where answers are cut; "
                "else take a teacher that is right more often"
            )
            problems.append(Problem(where, what, fix))
        elif not scales[scale]:
            what = f"the knob has no scale: the plain teacher's {right} have the same {reward} within each prompt"
            fix = "take another proxy" if reward == "compatibility" else "leave out the teachers with this reward"
            problems.append(Problem(where, what, f"raise calibrate.scale_prompts, or {fix}"))
    return problems
