"""A diagnosis of one teacher and one student: a probe is trained, evidence collected, every measure read from it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from distillability.config.recipe import Diagnose
from distillability.diagnosis import Diagnosis, find
from distillability.diagnosis.collect import add_symptoms, draw, draw_all, read_all
from distillability.diagnosis.evidence import Evidence, Probed
from distillability.diagnosis.forward import Pair
from distillability.diagnosis.probe import train_and_ask, train_probe
from distillability.models.load import LoadedModel, load_model
from distillability.tasks import Task
from distillability.training.distill_student import StudentSettings
from distillability.types import Trace

__all__ = ["diagnose", "diagnose_pair"]


def diagnose(
    teacher: LoadedModel | str,
    student: LoadedModel | str,
    task: Task,
    *,
    proxy: LoadedModel | str | None = None,
    distilled: bool = False,
    settings: Diagnose | None = None,
    max_completion_length: int = 256,
    learning_rate: float = 1e-4,
    batch_size: int = 48,
    seed: int = 0,
) -> Diagnosis:
    """Which traps await `student` when it is distilled from `teacher` on `task`, or which symptoms it shows once it has been.

    Args:
        proxy: answers in the student's place after the same few steps, for the forecast of what students will reach: a small model that
            already speaks the task's language, needed where the student's weights are random.
        distilled: the student has been distilled: its symptoms are measured too, and no probe is trained.
        settings: how much is looked at.
        max_completion_length: longest completion, in tokens of the model that writes it.
        learning_rate, batch_size: of the probe, the student after a few steps (`settings.probe_steps`), which is what is measured.

    Returns:
        findings that print as a table, in a notebook as HTML. A student (or proxy) that is given as a loaded model becomes the probe
        where one is trained.

    Raises:
        UserError: a model cannot be loaded, or has no chat template or end of turn.
    """
    loaded = {role: load_model(model) if isinstance(model, str) else model for role, model in (("teacher", teacher), ("student", student))}
    settings = settings or Diagnose()
    pair = Pair(loaded["teacher"], loaded["student"], task, settings, max_completion_length, seed)
    steps = 0 if distilled else settings.probe_steps
    how = _probe_settings(steps, batch_size, learning_rate, max_completion_length, seed)
    stand_in = load_model(proxy) if isinstance(proxy, str) else proxy
    return diagnose_pair(pair, distilled=distilled, probe=how if steps else None, proxy=stand_in)


def diagnose_pair(pair: Pair, *, distilled: bool, probe: StudentSettings | None, proxy: LoadedModel | None = None) -> Diagnosis:
    """The diagnosis of a pair.

    Args:
        probe: how the student is trained before it is looked at; None for one that is taken as it is.
        proxy: answers in its place after the same steps, for the forecast; it is changed.
    """
    began = time.perf_counter()
    texts = [] if probe is None else _texts_of_teacher(pair)
    outcome = None if probe is None else train_probe(pair.student, texts, probe, pair.autocast["student"])
    pair.forwards["student"] += outcome["forwards"] if outcome else 0
    drawn = draw_all(pair)
    evidence = read_all(pair, drawn)
    if distilled:
        add_symptoms(pair, drawn, evidence)
    else:
        evidence = _add_forecast(pair, evidence, probe, outcome, proxy, texts)
    findings = find(evidence, symptoms=distilled)
    cost = {"seconds": time.perf_counter() - began, "forwards": dict(pair.forwards)}
    return Diagnosis(pair.teacher.reference, pair.student.reference, pair.task.name, findings, cost, outcome)


def _texts_of_teacher(pair: Pair) -> list[Trace]:
    """What the probe learns from."""
    prompts = pair.task.prompts("query", pair.settings.probe_traces)
    drawn = draw(pair, "teacher", prompts)
    return [Trace(prompt.id, prompt.text, text, cut) for prompt, text, cut in zip(prompts, drawn.texts, drawn.truncated, strict=True)]


def _add_forecast(
    pair: Pair,
    evidence: Evidence,
    probe: StudentSettings | None,
    outcome: dict[str, Any] | None,
    proxy: LoadedModel | None,
    texts: list[Trace],
) -> Evidence:
    """What the probe answers: the student's texts are there already, a proxy is trained and asked here."""
    if probe is None or outcome is None or not outcome["steps"]:
        why = "no probe was trained (probe_steps = 0)" if outcome is None else outcome["reason"]
        return replace(evidence, reasons=evidence.reasons | {"probed": why})
    if proxy is None:
        stats = evidence.on_student
        answers = (np.array(values, dtype=np.float64) for values in (stats.right, stats.truncated))
        return replace(evidence, probed=Probed("student", outcome["steps"], outcome["traces"], *answers))
    probed, learnt = train_and_ask(proxy, "proxy", texts, pair.task, pair.prompts, probe, pair.autocast["student"])
    pair.forwards["proxy"] += learnt["forwards"]
    return replace(evidence, probed=probed)


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
