"""What a student can learn from: the plain teacher, calibrated teachers, and the controls that a cheap trick would be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CEILINGS",
    "CONTROLS",
    "FREE_ALTERNATIVES",
    "SWEEP",
    "THIEVES",
    "WAYS_OF_ASKING",
    "Source",
    "parent_of",
    "parse_source",
    "source_names",
]

SWEEP = "sweep"  # in results, the source of what is said of all values of the knob together


@dataclass(frozen=True)
class Source:
    """How the texts of one source come about.

    Attributes:
        teacher: who is asked: `plain`, a calibrated teacher's name, or None where nobody is (gold).
        temperature: of the sampling.
        prefill: `common`, the bytes common to all answers with steps; `oracle`, the first bytes of the easy mode.
        select: keep one of `draws` sampled texts, the highest or lowest in C, or the one that the proxy alone finds likeliest a byte: a
            thief has a small model of his own, and not the original teacher.
        cut: `answer_only` keeps the answer and drops the steps.
        gold: `answers` or `steps` of the task instead of a teacher's text.
    """

    name: str
    teacher: str | None
    decoding: Literal["greedy", "sampled"] = "sampled"
    temperature: float = 1.0
    prefill: Literal["common", "oracle"] | None = None
    few_shot: bool = False
    draws: int = 1
    select: Literal["best", "worst", "likeliest"] | None = None
    cut: Literal["answer_only"] | None = None
    gold: Literal["answers", "steps"] | None = None


CONTROLS: dict[str, Source] = {
    source.name: source
    for source in (
        Source("plain_greedy", "plain", decoding="greedy"),
        Source("plain_best_of_8", "plain", draws=8, select="best"),
        Source("plain_worst_of_8", "plain", draws=8, select="worst"),
        Source("answer_only", "plain", cut="answer_only"),
        Source("gold_answers", None, gold="answers"),
        Source("gold_steps", None, gold="steps"),
    )
}
# What anybody can do without calibrating: the rivals of the distillable teacher. Oracle prefills and gold steps are ceilings instead.
FREE_ALTERNATIVES = (
    "plain_greedy",
    "plain_prefilled",
    "plain_best_of_8",
    "plain_likeliest_of_8",
    "plain_hot",
    "plain_hot_likeliest_of_8",
    "gold_answers",
)
CEILINGS = ("plain_prefilled_oracle", "gold_steps")  # they need what no query buys

# Of any teacher, by what follows its name; where one ends another, the longer stands first.
WAYS_OF_ASKING: dict[str, dict[str, object]] = {
    "_prefilled_oracle": {"prefill": "oracle"},
    "_prefilled": {"prefill": "common"},
    "_few_shot": {"few_shot": True},
    "_hot_likeliest_of_8": {"temperature": 1.5, "draws": 8, "select": "likeliest"},
    "_likeliest_of_8": {"draws": 8, "select": "likeliest"},
    "_hot": {"temperature": 1.5},
}
THIEVES = ("_hot_likeliest_of_8", "_likeliest_of_8", "_hot")  # those that say nothing to the teacher beside the question


def parse_source(name: str, teachers: Collection[str]) -> Source | None:
    """The source of that name where `teachers` are the calibrated ones; None where there is no such source."""
    asked = {"plain", *teachers}
    if name in asked:
        return Source(name, name)
    if name in CONTROLS:
        return CONTROLS[name]
    parent = parent_of(name)
    return Source(name, parent, **WAYS_OF_ASKING[name.removeprefix(parent)]) if parent in asked else None  # type: ignore[arg-type]


def parent_of(name: str) -> str | None:
    """The teacher who is asked in a special way, as `plain` by `plain_hot`; None where the name ends in none."""
    return next((name.removesuffix(suffix) for suffix in WAYS_OF_ASKING if name.endswith(suffix)), None)


def source_names(teachers: Collection[str]) -> list[str]:
    """Every source that a recipe with these calibrated teachers can name."""
    asked = ["plain", *teachers]
    return [*asked, *CONTROLS, *(teacher + suffix for teacher in asked for suffix in WAYS_OF_ASKING)]
