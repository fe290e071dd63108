"""A teacher's traces as it reads them itself, and what it says at the positions of a student whose tokens may be others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from transformers import PreTrainedTokenizerBase

from distillability.errors import UserError
from distillability.models.boundaries import NOWHERE, in_other_tokens
from distillability.models.chat import rendered_once
from distillability.models.load import LoadedModel
from distillability.objectives import Objective
from distillability.ops.projection import projector
from distillability.training.teacher_signals import Example, RecordedSignals
from distillability.types import Trace

__all__ = ["Heard", "Said", "at_places", "heard_traces", "said_of", "spoken_share"]


@dataclass(frozen=True)
class Heard:
    """A trace as the teacher reads it, and for each token of the student's which of its rows speaks of it, NOWHERE where none does.

    places is None where they are one to one.
    """

    text: Example
    places: list[int] | None = None


class Said:
    """What the teacher says at the student's positions.

    Args:
        states: [N, …] of the teacher, or recorded of it.
        head: makes logits of them.
        silent: [N] where it says nothing; None where it speaks everywhere.
    """

    def __init__(self, states: torch.Tensor, head: torch.nn.Module, silent: torch.Tensor | None):
        self.states, self.head, self.silent = states, head, silent
        self.project = projector(head)

    @torch.no_grad()
    def logits(self, part: slice) -> torch.Tensor:
        """[n, V] at some of the positions, −∞ where it is silent."""
        logits = self.project(self.states[part])
        return logits if self.silent is None else logits.masked_fill(self.silent[part, None], -torch.inf)


def said_of(states: torch.Tensor, head: torch.nn.Module, heard: Sequence[Heard]) -> Said:
    """Of states [M, …] at all of the teacher's own positions, text after text, those at the student's."""
    before = accumulate((len(each.text.completion) for each in heard), initial=0)
    places = [NOWHERE if place == NOWHERE else row + place for row, each in zip(before, heard, strict=False) for place in each.places or ()]
    if not places:
        return Said(states, head, None)
    rows, silent = at_places(states, places)
    return Said(rows, head, silent)


def at_places(rows: torch.Tensor, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, …] of the rows at `places` [n], anything at NOWHERE, and [n] where that is."""
    index = torch.tensor(places, device=rows.device)
    return rows[index.clamp_min(0)], index == NOWHERE


def heard_traces(
    student: LoadedModel,
    objective: Objective,
    traces: Sequence[Trace],
    examples: Sequence[Example],
    signals: RecordedSignals | None,
    teacher: LoadedModel | None,
    recorded_by: PreTrainedTokenizerBase | None,
) -> list[Heard]:
    """The traces as the teacher reads them; the student's own reading where nobody is asked or both read alike.

    Raises:
        UserError: of most texts the two tokenizers do not spell the same.
    """
    prompts = [example.prompt for example in examples]
    if teacher is not None:
        prompts = rendered_once(teacher.tokenizer, [trace.prompt for trace in traces])
    other = recorded_by if teacher is None else teacher.tokenizer
    if not (objective.crosses_tokenizers and objective.needs_teacher_logits) or other is None:
        return [Heard(Example(prompt, example.completion)) for prompt, example in zip(prompts, examples, strict=True)]
    heard = []
    for index, (prompt, example, trace) in enumerate(zip(prompts, examples, traces, strict=True)):
        completion, places = in_other_tokens(student.tokenizer, other, example.completion, trace.text)
        if signals is not None and len(signals.rows(index)) != len(completion):
            raise ValueError(f"what was recorded of {trace.prompt_id} was not said by the tokenizer that is asked now")
        heard.append(Heard(Example(prompt, completion), places))
    whole = sum(each.places[-1] != NOWHERE for each in heard if each.places)
    if 2 * whole < len(heard):
        raise UserError.single(
            student.reference,
            f"its tokenizer and the teacher's spell only {whole} of {len(heard)} texts alike, and of the others the teacher cannot speak",
            "use seqkd for this pair, or a student whose tokenizer gives texts back as they are",
        )
    return heard


def spoken_share(heard: Sequence[Heard]) -> dict[str, float]:
    """The share of the student's tokens that the teacher speaks of, where their tokenizers are two."""
    places = [place for each in heard for place in each.places or ()]
    return {"spoken_share": sum(place != NOWHERE for place in places) / len(places)} if places else {}
