"""What two models say along texts: every text passes once through each.

A batch of texts is forwarded, and its positions are projected a chunk at a time; of a chunk only a few numbers a position stay. So memory
does not grow with the vocabulary, nor with the number of texts times their length.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from distillability.config.recipe import Diagnose
from distillability.diagnosis.evidence import Compared, HeadGradients, Role, TokenStats, Traced
from distillability.diagnosis.position_stats import HeadGradient, compare_positions, describe_positions, top_k_of
from distillability.inference import Completions
from distillability.models.batch import context_length, right_padded
from distillability.models.chat import end_of_turn_id, rendered_once, round_trip_ids
from distillability.models.head import has_plain_head, states_and_head
from distillability.models.load import LoadedModel
from distillability.ops.logprobs import upcast
from distillability.ops.projection import projector
from distillability.tasks import Task
from distillability.types import Prompt

__all__ = ["ROLES", "Pair", "read_own", "trace", "vocabulary_difference", "width"]

ROLES: tuple[Role, Role] = ("teacher", "student")
_BATCH_TOKENS = 4096  # padded, forwarded at once
_CHUNK_ELEMENTS = 1 << 21  # of logits at once; the statistics need a dozen tensors of that size


@dataclass
class Pair:
    """A teacher, a student and a task, and how much of them is looked at.

    forwards: sequences passed through each model so far; drawing a text counts as one.
    """

    teacher: LoadedModel
    student: LoadedModel
    task: Task
    settings: Diagnose
    max_completion_length: int
    seed: int
    autocast: dict[Role, torch.dtype | None] = field(default_factory=lambda: {"teacher": None, "student": None})
    forwards: Counter[str] = field(default_factory=Counter)

    def model(self, role: Role) -> LoadedModel:
        return self.teacher if role == "teacher" else self.student

    @property
    def prompts(self) -> list[Prompt]:
        return self.task.prompts("validate", self.settings.prompts)


def vocabulary_difference(teacher: LoadedModel, student: LoadedModel) -> str | None:
    """How two vocabularies differ; None where logits can be compared token by token."""
    ours, theirs = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    if width(teacher) != width(student):
        return f"the teacher gives {width(teacher)} logits and the student {width(student)}"
    moved = [token for token in ours if ours[token] != theirs.get(token)]
    return f"{len(moved)} tokens have another id in the student, {moved[0]!r} among them" if moved else None


@dataclass(frozen=True)
class _Item:
    """One text as one model reads it."""

    text: int
    prompt: list[int]
    completion: list[int]  # with its end of turn where it came

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


@torch.inference_mode()
def trace(pair: Pair, writer: Role, prompts: Sequence[Prompt], completions: Completions) -> Traced:
    """What teacher and student say at every position of one completion a prompt.

    With one vocabulary both read the very ids that the writer drew, else the student and the teacher each encode the text themselves.
    """
    shared = vocabulary_difference(pair.teacher, pair.student) is None
    encoded = {role: _encode(pair.model(role), prompts, completions, own=shared or role == writer) for role in ROLES}
    read = [(teacher, student) for teacher, student in zip(*(encoded[role] for role in ROLES), strict=True)]
    kept = [row for row, both in enumerate(read) if None not in both]
    items = {
        role: [_Item(text, *ids) for text, ids in enumerate(filter(None, (read[row][place] for row in kept)))]
        for place, role in enumerate(ROLES)
    }
    pair.forwards.update({role: len(kept) for role in ROLES})
    compared, gradients = None, None
    if shared:
        stats, compared, gradients = _read_both(pair, items)
    else:
        stats = {role: _read_alone(pair, role, items[role]) for role in ROLES}
    grades = [pair.task.grade_completion(prompts[row], completions.texts[row], completions.truncated[row]) for row in kept]
    return Traced(
        texts=[completions.texts[row] for row in kept],
        right=[grade.right for grade in grades],
        truncated=[completions.truncated[row] for row in kept],
        teacher=stats["teacher"],
        student=stats["student"],
        compared=compared,
        n_skipped=len(prompts) - len(kept),
        gradients=gradients,
    )


@torch.inference_mode()
def read_own(pair: Pair, role: Role, prompts: Sequence[Prompt], completions: Completions) -> TokenStats:
    """What a model says along completions of its own, by the number of the prompt; those that exceed its context are left out."""
    encoded = _encode(pair.model(role), prompts, completions, own=True)
    items = [_Item(row, *ids) for row, ids in enumerate(encoded) if ids is not None]
    pair.forwards[role] += len(items)
    return _read_alone(pair, role, items)


def _encode(
    loaded: LoadedModel, prompts: Sequence[Prompt], completions: Completions, *, own: bool
) -> list[tuple[list[int], list[int]] | None]:
    """Prompt and completion ids of each text; None of one that this tokenizer does not give back or that exceeds the context."""
    end, context = end_of_turn_id(loaded.tokenizer), context_length(loaded.model)
    found: list[tuple[list[int], list[int]] | None] = []
    rendered = rendered_once(loaded.tokenizer, [prompt.text for prompt in prompts])
    for prompt, ids, text, cut in zip(rendered, completions.ids, completions.texts, completions.truncated, strict=True):
        known = ids if own else round_trip_ids(loaded.tokenizer, text)
        completion = None if known is None else [*known, *([] if cut else [end])]
        fits = completion and (context is None or len(prompt) + len(completion) <= context)
        found.append((prompt, completion) if completion and fits else None)
    return found


def _read_alone(pair: Pair, role: Role, items: Sequence[_Item]) -> TokenStats:
    loaded, gathered = pair.model(role), _Gathered(items)
    plain = has_plain_head(loaded.model)
    for batch in _batches(items):
        states, project, targets = _states(pair, role, batch, plain)
        for rows in _chunks(len(targets), width(loaded)):
            gathered.add(describe_positions(_logprobs(project, states[rows]), targets[rows]))
        gathered.place(batch)
    return gathered.stats()


def _read_both(pair: Pair, items: dict[Role, list[_Item]]) -> tuple[dict[Role, TokenStats], Compared, HeadGradients | None]:
    gathered = {role: _Gathered(items[role]) for role in ROLES}
    joint, tokens = _Gathered(items["student"]), defaultdict[str, list[int]](list)
    plain = {role: has_plain_head(pair.model(role).model) for role in ROLES} if items["teacher"] else {}
    top_k = top_k_of(width(pair.student))
    gradient = HeadGradient(pair.student.model.get_output_embeddings().weight) if plain.get("student") else None
    slopes = _Gathered(items["student"])
    for places in _batches([*range(len(items["teacher"]))], lambda row: max(items[role][row].length for role in ROLES)):
        batch = {role: [items[role][row] for row in places] for role in ROLES}
        read = {role: _states(pair, role, batch[role], plain[role]) for role in ROLES}
        targets = read["student"][2]
        texts = torch.tensor([item.text for item in batch["student"] for _ in item.completion])
        for rows in _chunks(len(targets), width(pair.student)):
            logprobs = {role: _logprobs(read[role][1], read[role][0][rows]).to(targets.device) for role in ROLES}
            for role in ROLES:
                gathered[role].add(describe_positions(logprobs[role], targets[rows]))
            numbers, teacher_choice, student_choice = compare_positions(
                teacher_logprobs=logprobs["teacher"], student_logprobs=logprobs["student"], targets=targets[rows], top_k=top_k
            )
            joint.add(numbers)
            if gradient is not None:
                both = {f"{role}_logprobs": logprobs[role] for role in ROLES}
                slopes.add(gradient.add(**both, states=read["student"][0][rows], texts=texts[rows].to(targets.device)))
            tokens["token"] += targets[rows].tolist()
            tokens["teacher_choice"] += teacher_choice.tolist()
            tokens["student_choice"] += student_choice.tolist()
        for role in ROLES:
            gathered[role].place(batch[role])
        joint.place(batch["student"])
    spelled = _spell(pair.student, {token for ids in tokens.values() for token in ids})
    words: dict[str, Any] = {name: [spelled[token] for token in ids] for name, ids in tokens.items()}
    compared = Compared(**joint.arrays(Compared.numbers()), **words)
    collected = None if gradient is None else HeadGradients(gradient.groups.cpu().numpy(), **slopes.numbers)
    return {role: gathered[role].stats() for role in ROLES}, compared, collected


class _Gathered:
    """Position-wise numbers of some texts, chunk after chunk, each written to its place.

    The arrays are there from the first chunk on: small ones kept between the large temporaries of every chunk would leave the heap in
    pieces that no later chunk fits into, and memory would grow with the vocabulary after all.
    """

    def __init__(self, items: Sequence[_Item]) -> None:
        self.length, self.filled = sum(len(item.completion) for item in items), 0
        self.numbers: dict[str, np.ndarray] = {}
        self.texts: list[int] = []
        self.places: list[float] = []

    def add(self, numbers: dict[str, torch.Tensor]) -> None:
        rows = slice(self.filled, self.filled + len(next(iter(numbers.values()))))
        for name, values in numbers.items():
            self.numbers.setdefault(name, np.empty((self.length, *values.shape[1:])))[rows] = values.cpu().numpy()
        self.filled = rows.stop

    def place(self, batch: Sequence[_Item]) -> None:
        """Which positions the numbers added since the last call belong to."""
        for item in batch:
            self.texts += [item.text] * len(item.completion)
            self.places += [index / len(item.completion) for index in range(len(item.completion))]

    def arrays(self, names: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {name: self.numbers.get(name, np.zeros(0)) for name in names}
        return found | {"text": np.array(self.texts, dtype=np.int64), "place": np.array(self.places)}

    def stats(self) -> TokenStats:
        return TokenStats(**self.arrays(["logprob", "entropy", "likeliest"]))


def _states(
    pair: Pair, role: Role, batch: Sequence[_Item], plain_head: bool
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """States of all completion positions of a batch, what projects them to logits, and the tokens that stand there."""
    loaded, dtype = pair.model(role), pair.autocast[role]
    inputs, targets = right_padded(batch, loaded.tokenizer, loaded.device)
    with torch.autocast(loaded.device.type, dtype, enabled=dtype is not None):
        states, head = states_and_head(loaded.model, plain_head=plain_head, **inputs)
        return states, projector(head), targets


def _logprobs(project: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    return upcast(project(states)).log_softmax(-1)


def _batches(items: Sequence[Any], length: Callable[[Any], int] = lambda item: item.length) -> Iterator[list[Any]]:
    """In their order, as many as fit."""
    batch: list[Any] = []
    for item in items:
        if batch and max(map(length, [*batch, item])) * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _chunks(n: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, _CHUNK_ELEMENTS // vocabulary)
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def _spell(loaded: LoadedModel, ids: set[int]) -> dict[int, str]:
    """Token texts; that of the end of turn is empty."""
    end = end_of_turn_id(loaded.tokenizer)
    return {token: "" if token == end else loaded.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in ids}


def width(loaded: LoadedModel) -> int:
    return int(loaded.model.config.get_text_config().vocab_size)
