"""Alignment of a teacher's positions with those of a student that may use another tokenizer."""

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
    """A trace tokenised by the teacher.

    Attributes:
        text: the prompt and completion in the teacher's tokens.
        places: for each student token the index of the aligned teacher position, UNALIGNED where there is none; None where positions
            are one to one.
    """

    text: Example
    places: list[int] | None = None


class TeacherSignal:
    """The teacher's logits at the student's positions.

    Args:
        states: [N, …] of the teacher, or recorded of it.
        head: maps states to logits.
        unaligned: [N] True where no teacher position is aligned; None where all are.
    """

    def __init__(self, states: torch.Tensor, head: torch.nn.Module, unaligned: torch.Tensor | None):
        self.states, self.head, self.unaligned = states, head, unaligned
        self.project = projector(head)

    @torch.no_grad()
    def logits(self, part: slice) -> torch.Tensor:
        """[n, V] at some of the positions, −∞ at those without an aligned teacher position."""
        logits = self.project(self.states[part])
        return logits if self.unaligned is None else logits.masked_fill(self.unaligned[part, None], -torch.inf)


def signal_at(states: torch.Tensor, head: torch.nn.Module, aligned: Sequence[AlignedTrace]) -> TeacherSignal:
    """The teacher's signal at the student's positions, from states [M, …] at all of the teacher's positions, text after text."""
    before = accumulate((len(each.text.completion) for each in aligned), initial=0)
    places = [
        UNALIGNED if place == UNALIGNED else row + place for row, each in zip(before, aligned, strict=False) for place in each.places or ()
    ]
    if not places:
        return TeacherSignal(states, head, None)
    rows, unaligned = at_places(states, places)
    return TeacherSignal(rows, head, unaligned)


def at_places(rows: torch.Tensor, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, …] at `places` [n] (arbitrary at UNALIGNED), and a mask [n] of the unaligned ones."""
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
    """The traces in the teacher's tokens; in the student's where no teacher logits are used or both tokenizers agree.

    Raises:
        UserError: the two tokenizers encode fewer than half of the texts to the same characters.
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
            raise ValueError(f"the recorded signal of {trace.prompt_id} has another length than its text under the teacher's tokenizer")
        aligned.append(AlignedTrace(Example(prompt, completion), places))
    whole = sum(each.places[-1] != UNALIGNED for each in aligned if each.places)
    if 2 * whole < len(aligned):
        raise UserError.single(
            student.reference,
            f"its tokenizer and the teacher's align on only {whole} of {len(aligned)} texts; the others have no teacher signal",
            "use seqkd for this pair, or a student whose tokenizer decodes its ids to the same text",
        )
    return aligned


def aligned_share(aligned: Sequence[AlignedTrace]) -> dict[str, float]:
    """The share of student tokens with an aligned teacher position, where the tokenizers differ."""
    places = [place for each in aligned for place in each.places or ()]
    return {"aligned_share": sum(place != UNALIGNED for place in places) / len(places)} if places else {}
