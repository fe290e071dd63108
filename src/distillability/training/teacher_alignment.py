"""A teacher's traces as it reads them itself, and what it says at the positions of a student whose tokens may be others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from transformers import PreTrainedTokenizerBase

from distillability.errors import UserError
from distillability.models.boundaries import UNALIGNED, in_other_tokens
from distillability.models.chat import rendered_once
from distillability.models.load import LoadedModel
from distillability.objectives import Objective
from distillability.ops.projection import projector
from distillability.training.teacher_signals import Example, RecordedSignals
from distillability.types import Trace

__all__ = ["AlignedTrace", "TeacherSignal", "align_traces", "aligned_share", "at_places", "signal_at"]


@dataclass(frozen=True)
class AlignedTrace:
    """A trace as the teacher reads it, and for each token of the student's which of its rows speaks of it, UNALIGNED where none does.

    places is None where they are one to one.
    """

    text: Example
    places: list[int] | None = None


class TeacherSignal:
    """What the teacher says at the student's positions.

    Args:
        states: [N, …] of the teacher, or recorded of it.
        head: makes logits of them.
        unaligned: [N] where it says nothing; None where it speaks everywhere.
    """

    def __init__(self, states: torch.Tensor, head: torch.nn.Module, unaligned: torch.Tensor | None):
        self.states, self.head, self.unaligned = states, head, unaligned
        self.project = projector(head)

    @torch.no_grad()
    def logits(self, part: slice) -> torch.Tensor:
        """[n, V] at some of the positions, −∞ where it is unaligned."""
        logits = self.project(self.states[part])
        return logits if self.unaligned is None else logits.masked_fill(self.unaligned[part, None], -torch.inf)


def signal_at(states: torch.Tensor, head: torch.nn.Module, aligned: Sequence[AlignedTrace]) -> TeacherSignal:
    """Of states [M, …] at all of the teacher's own positions, text after text, those at the student's."""
    before = accumulate((len(each.text.completion) for each in aligned), initial=0)
    places = [
        UNALIGNED if place == UNALIGNED else row + place for row, each in zip(before, aligned, strict=False) for place in each.places or ()
    ]
    if not places:
        return TeacherSignal(states, head, None)
    rows, unaligned = at_places(states, places)
    return TeacherSignal(rows, head, unaligned)


def at_places(rows: torch.Tensor, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, …] of the rows at `places` [n], anything at UNALIGNED, and [n] where that is."""
    index = torch.tensor(places, device=rows.device)
    return rows[index.clamp_min(0)], index == UNALIGNED


def align_traces(
    student: LoadedModel,
    objective: Objective,
    traces: Sequence[Trace],
    examples: Sequence[Example],
    signals: RecordedSignals | None,
    teacher: LoadedModel | None,
    recorded_by: PreTrainedTokenizerBase | None,
) -> list[AlignedTrace]:
    """The traces as the teacher reads them; the student's own reading where nobody is asked or both read alike.

    Raises:
        UserError: of most texts the two tokenizers do not spell the same.
    """
    prompts = [example.prompt for example in examples]
    if teacher is not None:
        prompts = rendered_once(teacher.tokenizer, [trace.prompt for trace in traces])
    other = recorded_by if teacher is None else teacher.tokenizer
    if not (objective.crosses_tokenizers and objective.needs_teacher_logits) or other is None:
        return [AlignedTrace(Example(prompt, example.completion)) for prompt, example in zip(prompts, examples, strict=True)]
    aligned = []
    for index, (prompt, example, trace) in enumerate(zip(prompts, examples, traces, strict=True)):
        completion, places = in_other_tokens(student.tokenizer, other, example.completion, trace.text)
        if signals is not None and len(signals.rows(index)) != len(completion):
            raise ValueError(f"what was recorded of {trace.prompt_id} was not signal by the tokenizer that is asked now")
        aligned.append(AlignedTrace(Example(prompt, completion), places))
    whole = sum(each.places[-1] != UNALIGNED for each in aligned if each.places)
    if 2 * whole < len(aligned):
        raise UserError.single(
            student.reference,
            f"its tokenizer and the teacher's spell only {whole} of {len(aligned)} texts alike, and of the others the teacher cannot speak",
            "use seqkd for this pair, or a student whose tokenizer gives texts back as they are",
        )
    return aligned


def aligned_share(aligned: Sequence[AlignedTrace]) -> dict[str, float]:
    """The share of the student's tokens that the teacher speaks of, where their tokenizers are two."""
    places = [place for each in aligned for place in each.places or ()]
    return {"aligned_share": sum(place != UNALIGNED for place in places) / len(places)} if places else {}
