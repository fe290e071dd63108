"""Collecting the evidence of a diagnosis: texts are drawn, read by both models, paired and answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillability.diagnosis.evidence import Answers, Evidence, Recoveries, Role, TracePair, WeightedSamples
from distillability.diagnosis.forward import ROLES, Pair, read_own, trace, vocabulary_difference, width
from distillability.diagnosis.position_stats import curve_ks, top_k_of
from distillability.inference import Completions, complete
from distillability.inference.likelihood import Scorer
from distillability.models.chat import completion_ids
from distillability.ops.repetition import repeats
from distillability.types import Prompt

__all__ = ["Drawn", "add_symptoms", "draw", "draw_all", "read_all"]


@dataclass(frozen=True)
class Drawn:
    """The texts that the traps are measured on.

    Attributes:
        own: one of each model for every prompt.
        many: several of the teacher for each of the first prompts, side by side.
        hot: one of the teacher for every prompt, at a temperature at which it errs.
    """

    own: dict[Role, Completions]
    many: Completions
    hot: Completions


def draw_all(pair: Pair) -> Drawn:
    """Draw them."""
    settings, prompts = pair.settings, pair.prompts
    own = {role: draw(pair, role, prompts) for role in ROLES}
    many = draw(pair, "teacher", prompts[: settings.weight_prompts], samples=settings.weight_samples)
    return Drawn(own, many, draw(pair, "teacher", prompts, temperature=settings.temperature))


def read_all(pair: Pair, drawn: Drawn) -> Evidence:
    """What both models say along the texts: the evidence on the traps. The texts need not come from these models."""
    on_teacher, on_student = (trace(pair, role, pair.prompts, drawn.own[role]) for role in ROLES)
    difference = vocabulary_difference(pair.teacher, pair.student)
    return Evidence(
        on_teacher,
        on_student,
        curve_ks(width(pair.student)),
        top_k_of(width(pair.student)),
        _weights(pair, drawn.many),
        _trace_pairs(pair, drawn),
        reasons=({} if difference is None else {"compared": f"teacher and student have different vocabularies: {difference}"})
        | {"gradients": "the student's output head cannot be applied by itself"},
    )


def add_symptoms(pair: Pair, drawn: Drawn, evidence: Evidence) -> None:
    """How the student answers, and how both models go on after a planted error."""
    evidence.answers["student"] = _answers(pair, drawn.own["student"])
    recoveries = _recoveries(pair, drawn.own["teacher"])
    evidence.recoveries.update(recoveries)
    if not recoveries:
        evidence.reasons["recoveries"] = "the teacher gave no right text in which this task can plant a wrong step"


def draw(pair: Pair, role: Role, prompts: Sequence[Prompt], *, samples: int = 1, temperature: float = 1.0) -> Completions:
    """Sampled answers of one model."""
    return _complete(pair, role, prompts, decoding="sampled", samples=samples, temperature=temperature)


# Likelihoods of whole texts


def _weights(pair: Pair, many: Completions) -> WeightedSamples:
    """log π_S(y) − log π_T(y) of the teacher's samples; both read the text with their own tokenizer."""
    prompts = pair.prompts[: pair.settings.weight_prompts]
    asked = [prompt.text for prompt in prompts for _ in range(len(many.texts) // len(prompts))]
    keys = [(prompt, text) for prompt, text, cut in zip(asked, many.texts, many.truncated, strict=True) if not cut]
    scores = {role: _score(pair, role, keys) for role in ROLES}
    groups: dict[str, list[float]] = {prompt.text: [] for prompt in prompts}
    for key in keys:
        teacher, student = (scores[role][key] for role in ROLES)
        if teacher is not None and student is not None:
            groups[key[0]].append(student[0] - teacher[0])
    known = sum(map(len, groups.values()))
    return WeightedSamples([np.array(group) for group in groups.values()], n_skipped=len(asked) - known)


def _score(pair: Pair, role: Role, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[float, float] | None]:
    """log P and log P a byte of each (prompt, text), equal ones scored once; None of what cannot be scored."""
    unique = list(dict.fromkeys(keys))
    pair.forwards[role] += len(unique)
    loaded = pair.model(role)
    scorer = Scorer(loaded.model, loaded.tokenizer, autocast_dtype=pair.autocast[role])
    found = scorer.score([prompt for prompt, _ in unique], [text for _, text in unique])
    return {
        key: None if likelihood is None else (likelihood.logprob, likelihood.logprob / max(1, likelihood.n_bytes))
        for key, likelihood in zip(unique, found, strict=True)
    }


def _trace_pairs(pair: Pair, drawn: Drawn) -> list[TracePair]:
    """Right and wrong texts of the same prompts: errors planted in reference solutions, and what either model got wrong."""
    prompts = pair.prompts
    right = {row: text for row, (text, is_right) in enumerate(_graded(pair, prompts, drawn.own["teacher"])) if is_right}
    wrong: list[tuple[str, int, str, str]] = []
    for row, prompt in enumerate(prompts):
        gold, planted = pair.task.gold_steps(prompt), pair.task.wrong_steps(prompt)
        if gold is not None and planted is not None:
            wrong.append(("planted error", row, gold, planted))
    for source, completions in (("hotter teacher", drawn.hot), ("student's own", drawn.own["student"])):
        graded = _graded(pair, prompts, completions)
        wrong += [(source, row, right[row], text) for row, (text, is_right) in enumerate(graded) if text and not is_right and row in right]
    keys = [(prompts[row].text, text) for _, row, good, bad in wrong for text in (good, bad)]
    scores = {role: _score(pair, role, keys) for role in ROLES}
    found = []
    for source, row, good, bad in wrong:
        four = [scores[role][prompts[row].text, text] for role in ROLES for text in (good, bad)]
        if all(score is not None for score in four):
            found.append(TracePair(source, row, *(score[1] for score in four if score is not None)))
    return found


def _graded(pair: Pair, prompts: Sequence[Prompt], completions: Completions) -> list[tuple[str, bool]]:
    """Each text with whether it is right; a text that was cut off is empty."""
    return [
        ("", False) if cut else (text, pair.task.grade(prompt, text).right)
        for prompt, text, cut in zip(prompts, completions.texts, completions.truncated, strict=True)
    ]


# Answers


def _answers(pair: Pair, sampled: Completions) -> Answers:
    prompts = pair.prompts
    greedy = _complete(pair, "student", prompts, decoding="greedy")
    stats = read_own(pair, "student", prompts, greedy)
    confidence = np.full(len(prompts), np.nan)
    for row in np.unique(stats.text):
        if not greedy.truncated[row]:
            stated = _answer_tokens(pair, greedy.ids[row], greedy.texts[row])
            confidence[row] = np.exp(stats.logprob[stats.text == row][-stated:].sum())
    return Answers(
        right=_right(pair, prompts, greedy),
        confidence=confidence,
        truncated=np.array(greedy.truncated, dtype=np.float64),
        repeated=_repeated(greedy),
        right_sampled=_right(pair, prompts, sampled),
    )


def _answer_tokens(pair: Pair, ids: Sequence[int], text: str) -> int:
    """How many of a text's tokens, its end of turn included, state the answer; all where the task cannot tell."""
    answer = pair.task.answer_only(text)
    if not answer or not text.endswith(answer):
        return len(ids) + 1
    before = completion_ids(pair.student.tokenizer, text.removesuffix(answer))
    common = next((place for place, both in enumerate(zip(ids, before, strict=False)) if both[0] != both[1]), min(len(ids), len(before)))
    return len(ids) + 1 - common


def _recoveries(pair: Pair, of_teacher: Completions) -> dict[Role, Recoveries]:
    """How both go on after the same errors planted in right texts of the teacher; empty where none could be planted."""
    planted = [
        (prompt, begun)
        for prompt, (text, right) in zip(pair.prompts, _graded(pair, pair.prompts, of_teacher), strict=True)
        if right and (begun := pair.task.plant_error(prompt, text)) is not None
    ]
    found: dict[Role, Recoveries] = {}
    for role in ROLES if planted else ():
        asked = [prompt for prompt, _ in planted]
        ended = _complete(pair, role, asked, decoding="greedy", prefills=[begun for _, begun in planted])
        truncated = np.array(ended.truncated, dtype=np.float64)
        found[role] = Recoveries(_right(pair, asked, ended), truncated, _repeated(ended))
    return found


def _complete(pair: Pair, role: Role, prompts: Sequence[Prompt], **how: Any) -> Completions:
    completions = complete(
        pair.model(role),
        [prompt.text for prompt in prompts],
        max_new_tokens=pair.max_completion_length,
        seed=pair.seed,
        autocast_dtype=pair.autocast[role],
        **how,
    )
    pair.forwards[role] += len(completions.texts)
    return completions


def _right(pair: Pair, prompts: Sequence[Prompt], completions: Completions) -> np.ndarray:
    return np.array([float(right) for _, right in _graded(pair, prompts, completions)])


def _repeated(completions: Completions) -> np.ndarray:
    return np.array([float(repeats(ids)) for ids in completions.ids])
