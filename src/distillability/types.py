"""The records that travel between the layers. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["DECODINGS", "RENAMED_OBJECTIVES", "SPLITS", "Decoding", "Grade", "Prompt", "Split", "Trace"]

Split = Literal["calibrate", "query", "validate", "test"]
SPLITS: tuple[Split, ...] = ("calibrate", "query", "validate", "test")
Decoding = Literal["greedy", "sampled"]
DECODINGS: tuple[Decoding, ...] = ("greedy", "sampled")
RENAMED_OBJECTIVES = {"universal": "uld"}  # by former names, which older results hold


@dataclass(frozen=True)
class Prompt:
    """A question, before any chat template.

    `answer` is empty where the task has none; `meta` holds what the task needs to grade and to render a solution; it is JSON-serialisable.
    """

    id: str
    text: str
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """What a grader saw in one text.

    right:        the full answer is right and nothing else is said after it.
    right_steps:  also every visible step is right and complete; None where the task cannot check steps.
    answer_only:  a well-formed answer without any step; None where the task cannot tell.
    mode:         the task's name for the way of answering; None where it labels none or recognises none.
    """

    right: bool
    right_steps: bool | None = None
    answer_only: bool | None = None
    mode: str | None = None


@dataclass(frozen=True)
class Trace:
    """A text somebody gave for a prompt: what a student learns from, or what an evaluation grades.

    truncated: the text hit the length limit before its end of turn. It is graded wrong, has no compatibility, and is never
    a student's target.
    """

    prompt_id: str
    prompt: str
    text: str
    truncated: bool = False


def complete_traces(traces: Sequence[Trace]) -> list[Trace]:
    """The traces that a student can learn from: neither truncated nor empty. The others count as queries all the same."""
    return [trace for trace in traces if not trace.truncated and trace.text]
