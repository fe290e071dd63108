"""Derived rows of a sweep: whether students follow the knob, and how far each calibration went beside what was predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distillability.analysis.evaluations import Measured
from distillability.config.sources import SWEEP
from distillability.config.sweep import is_sweep, knob_source
from distillability.evaluation.measures import Measure, Scores
from distillability.evaluation.sweep_response import anchor_flat, anchor_growth, knob_order, levels_between, log_odds_shift, predicted_shift
from distillability.files import read_json, read_jsonl
from distillability.results import Budget, Row
from distillability.runs.paths import admission_file, calibration_folder
from distillability.types import DECODINGS, Decoding

__all__ = ["dose_rows"]


def dose_rows(measured: Measured) -> Iterator[Row]:
    """Everything of a sweep; nothing of any other run."""
    if is_sweep(measured.context.recipe):
        yield from _student_rows(measured)
        yield from _teacher_rows(measured)


# Students along the knob, all calibrations of a value together


def _student_rows(measured: Measured) -> Iterator[Row]:
    context = measured.context
    sweep, settings, task = context.recipe.sweep, context.recipe.evaluate, context.config
    options: dict[str, Any] = {"resamples": settings.resamples, "confidence": settings.confidence}
    ends = min(sweep.knobs), max(sweep.knobs)
    common: dict[str, Any] = {"role": "student", "source": SWEEP, "student": task.student, "prefix": "teacher", "proxy": task.proxy}
    common["budget"] = Budget(queries=task.queries, steps=task.steps)
    for objective in dict.fromkeys(sweep.objectives):
        for decoding in DECODINGS:
            found = {knob: _scores(measured, knob, objective, decoding) for knob in sweep.knobs}
            students = {knob: scores for knob, scores in found.items() if scores is not None}
            fields = common | {"objective": objective, "decoding": decoding}
            order = knob_order(students, rng=measured.rng("knob order", objective, decoding), **options)
            yield measured.row("knob_order", order, **fields)
            between = levels_between(students, ends, rng=measured.rng("levels between", objective, decoding), **options)
            yield measured.row("knob_levels_between", between, **fields)


def _scores(measured: Measured, knob: float, objective: str, decoding: Decoding) -> Scores | None:
    source = knob_source(knob)
    return measured.scores(lambda student: student.source == source and student.objective == objective, decoding)


# Teachers


def _teacher_rows(measured: Measured) -> Iterator[Row]:
    calibrated = [(name, calibration) for name, calibration in measured.teachers if calibration is not None]
    anchors = []
    for name, calibration in calibrated:
        texts = measured.teacher(name, calibration).get("texts", {})
        if texts.get("anchor_nats") is not None:
            anchors.append((measured.knob(name) or 0.0, texts["anchor_nats"]))
    about: dict[str, Any] = {"role": "teacher", "proxy": measured.context.config.proxy}
    yield measured.row("anchor_growth", anchor_growth(anchors), source=SWEEP, decoding="sampled", **about)
    for name, calibration in calibrated:
        common = about | {"source": name, "knob": measured.knob(name), "calibration": calibration}
        yield measured.row("anchor_flat", _flat(measured, name, calibration), **common)
        if measured.context.task.easy_modes:
            yield measured.row("mode_shift", _shift(measured, name, calibration), decoding="sampled", **common)
            yield measured.row("mode_shift_predicted", _predicted(measured, name), decoding="sampled", **common)


def _flat(measured: Measured, name: str, calibration: int) -> Measure:
    folder = calibration_folder(measured.context.run, measured.task, name, calibration)
    lines = read_jsonl(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    done = read_json(folder / "done.json")
    earlier = f"the weights of step {done['kept_step']} of {done['steps']} were kept" if done["kept_step"] < done["steps"] else None
    return anchor_flat([line.get("anchor_nats") for line in lines], done["stopped"] or earlier)


def _modes(measured: Measured, name: str, calibration: int | None) -> dict[str, float] | None:
    """Shares of the modes among sampled answers; None where none were sampled."""
    found = measured.teacher(name, calibration)["test"].get("sampled") if (name, calibration) in measured.teachers else None
    return None if found is None else found["modes"]


def _shift(measured: Measured, name: str, calibration: int) -> Measure:
    before, after = _modes(measured, "plain", None), _modes(measured, name, calibration)
    if before is None or after is None:
        return Measure(None, None, None, 0, "", "the teachers' answers were not sampled")
    task = measured.context.task
    (was, now) = (
        (sum(modes.get(mode, 0.0) for mode in task.easy_modes), sum(modes.get(mode, 0.0) for mode in task.hard_modes))
        for modes in (before, after)
    )
    n = len(measured.teacher(name, calibration)["test"]["sampled"]["right"])
    return log_odds_shift(after=now, before=was, n=n, confidence=measured.context.recipe.evaluate.confidence)


def _predicted(measured: Measured, name: str) -> Measure:
    settings = measured.context.recipe.calibrate
    shares = _modes(measured, "plain", None)
    reason = _unpredictable(measured)
    if shares is None or reason:
        return Measure(None, None, None, 0, "", reason or "the plain teacher's answers were not sampled")
    admission = read_json(admission_file(measured.context.run, measured.task))
    return predicted_shift(
        knob=measured.knob(name) or 0.0,
        compatibility=admission["mean_compatibility"],
        shares=shares,
        easy_modes=measured.context.task.easy_modes,
        hard_modes=measured.context.task.hard_modes,
        scale=admission["scale"]["compatibility"],
        anchor_coefficient=settings.anchor_coefficient,
    )


def _unpredictable(measured: Measured) -> str | None:
    """Why the modes' distance on the plain teacher, over s_C, is not what calibration sees; None where it is."""
    settings = measured.context.recipe.calibrate
    if settings.advantage != "fixed_scale":
        return f'advantage = "{settings.advantage}" whitens C within every group: it has no fixed scale'
    if settings.reference == "policy":
        return 'reference = "policy": the modes\' distance in C changes as the policy does'
    if settings.proxy_aggregate == "worst" and measured.context.config.proxies:
        return 'proxy_aggregate = "worst": the modes\' distance was measured on the mean of the proxies'
    return None
