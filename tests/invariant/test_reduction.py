"""Loss and gradient do not depend on how a step is cut into micro-batches and processes, nor on padding. In float64, so exactly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import LlamaForCausalLM

from distillability.objectives import OBJECTIVES
from distillability.ops.align import IGNORE, next_token_positions
from distillability.ops.logprobs import chosen_logprobs
from distillability.ops.projection import projected_sum
from distillability.ops.reduce import global_mean

# (tokens of the prompt, tokens of the completion): uneven, so that a mean of means shows.
LENGTHS = [(3, 1), (5, 9), (2, 4), (4, 2), (1, 12), (6, 3), (2, 1), (3, 7)]
CUTS = {"1x8": [8], "2x4": [4, 4], "8x1": [1] * 8, "uneven": [1, 5, 2]}
N_TOKENS = sum(completion for _, completion in LENGTHS)


@dataclass
class Models:
    """A student and its teacher in float64."""

    student: LlamaForCausalLM
    teacher: LlamaForCausalLM
    examples: list[tuple[list[int], int]]  # ids, and how many of them are the prompt


def load(tiny: dict[str, Path]) -> Models:
    # Not eager attention: its softmax is float32 in a float64 model too.
    student, teacher = (
        LlamaForCausalLM.from_pretrained(tiny[name], attn_implementation="sdpa").double() for name in ("student", "teacher")
    )
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(student.config.vocab_size, (sum(pair),), generator=generator).tolist() for pair in LENGTHS]
    return Models(student, teacher, [(row, prompt) for row, (prompt, _) in zip(ids, LENGTHS, strict=True)])


@pytest.fixture(scope="module")
def models(tiny: dict[str, Path]) -> Models:
    return load(tiny)


@dataclass
class Batch:
    """[B, T] each."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor


def _collate(examples: Sequence[tuple[list[int], int]], side: Literal["left", "right"] = "right", extra: int = 0) -> Batch:
    width = max(len(ids) for ids, _ in examples) + extra

    def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        fills = [[fill] * (width - len(row)) for row in rows]
        return torch.tensor([[*pad, *row] if side == "left" else [*row, *pad] for row, pad in zip(rows, fills, strict=True)])

    return Batch(
        input_ids=padded([ids for ids, _ in examples], 0),
        attention_mask=padded([[1] * len(ids) for ids, _ in examples], 0),
        position_ids=padded([range(len(ids)) for ids, _ in examples], 0),
        labels=padded([[IGNORE] * prompt + ids[prompt:] for ids, prompt in examples], IGNORE),
    )


def _logits(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids).logits
    return logits


def _backward(
    models: Models, name: str, batch: Batch, *, n_tokens: int | None = N_TOKENS, world_size: int = 1, chunk: int | None = None
) -> float:
    """Add one micro-batch's gradient to the student's; its share of the loss.

    n_tokens None: its own count, the mistake. chunk: positions at a time, as students are trained; None for all logits at once, naively.
    """
    rows, columns, targets = next_token_positions(batch.labels)
    with torch.no_grad():
        teacher = _logits(models.teacher, batch)[rows, columns] if OBJECTIVES[name].needs_teacher_logits else None

    def objective(logits: torch.Tensor, part: slice) -> torch.Tensor:
        of_teacher = None if teacher is None else teacher[part]
        return OBJECTIVES[name](student_logits=logits, teacher_logits=of_teacher, target_ids=targets[part])

    if chunk is None:
        total = objective(_logits(models.student, batch)[rows, columns], slice(None))
    else:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
        states = models.student.model(**inputs).last_hidden_state[rows, columns]
        total = projected_sum(states, models.student.lm_head, objective, chunk=chunk)
    loss = global_mean(total, n_tokens or len(targets), world_size=world_size)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _gradient(model: LlamaForCausalLM) -> torch.Tensor:
    """All of it in one vector; the model is left without."""
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    model.zero_grad(set_to_none=True)
    return gradient


def _accumulated(
    models: Models, name: str, cut: Sequence[int], n_tokens: int | None = N_TOKENS, chunk: int | None = None
) -> tuple[float, torch.Tensor]:
    loss, start = 0.0, 0
    for size in cut:
        loss += _backward(models, name, _collate(models.examples[start : start + size]), n_tokens=n_tokens, chunk=chunk)
        start += size
    return loss, _gradient(models.student)


def _same(ours: tuple[float, torch.Tensor], theirs: tuple[float, torch.Tensor]) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-10)
    assert ours[1].norm().item() == pytest.approx(theirs[1].norm().item(), rel=1e-10)
    assert theirs[1].norm() > 1e-3
    assert torch.allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("chunk", [None, 5])
def test_gradient_accumulation_changes_nothing(models: Models, name: str, chunk: int | None) -> None:
    whole = _accumulated(models, name, CUTS["1x8"])
    for cut in ("2x4", "8x1", "uneven"):
        _same(_accumulated(models, name, CUTS[cut], chunk=chunk), whole)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("tied", [False, True])
def test_neither_chunks_nor_a_tied_head_matter(models: Models, name: str, tied: bool) -> None:
    models = Models(copy.deepcopy(models.student), models.teacher, models.examples)
    if tied:
        models.student.lm_head.weight = models.student.model.embed_tokens.weight
    whole = _accumulated(models, name, CUTS["1x8"])
    for chunk in (1, 7, 1000):
        _same(_accumulated(models, name, CUTS["1x8"], chunk=chunk), whole)


def test_a_mean_of_means_would_show(models: Models) -> None:
    loss, gradient = _accumulated(models, "seqkd", CUTS["1x8"])
    wrong_loss, wrong_gradient = _accumulated(models, "seqkd", CUTS["8x1"], n_tokens=None)
    assert wrong_loss / 8 != pytest.approx(loss, rel=1e-3)
    assert (wrong_gradient / 8).norm().item() != pytest.approx(gradient.norm().item(), rel=1e-3)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("chunk", [None, 5])
def test_averaging_over_processes_changes_nothing(models: Models, name: str, chunk: int | None) -> None:
    whole = _accumulated(models, name, CUTS["1x8"])
    losses, gradients = [], []
    for part in (models.examples[:3], models.examples[3:]):  # uneven shares of examples and of tokens
        losses.append(_backward(models, name, _collate(part), world_size=2, chunk=chunk))
        gradients.append(_gradient(models.student))
    _same((sum(losses) / 2, (gradients[0] + gradients[1]) / 2), whole)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 7])
@pytest.mark.parametrize("chunk", [None, 5])
def test_neither_side_nor_amount_of_padding_matters(
    models: Models, name: str, side: Literal["left", "right"], extra: int, chunk: int | None
) -> None:
    whole = _accumulated(models, name, CUTS["1x8"])
    loss = _backward(models, name, _collate(models.examples, side, extra), chunk=chunk)
    _same((loss, _gradient(models.student)), whole)


def test_seqkd_without_keeping_logits_is_the_same_loss_and_gradient(models: Models) -> None:
    whole = _accumulated(models, "seqkd", CUTS["1x8"])
    batch = _collate(models.examples)
    rows, columns, targets = next_token_positions(batch.labels)
    hidden = models.student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    logprobs = chosen_logprobs(hidden.last_hidden_state[rows, columns], models.student.lm_head, targets, chunk=5)
    loss = global_mean(-logprobs.sum(), N_TOKENS)
    loss.backward()  # type: ignore[no-untyped-call]
    _same((loss.item(), _gradient(models.student)), whole)
