"""Divergences and objectives against float64 references, closed forms and directions."""

from __future__ import annotations

import math

import pytest
import reference
import torch

from distillability.errors import UserError
from distillability.objectives import OBJECTIVES, build_objective
from distillability.ops.align import IGNORE, next_token_positions
from distillability.ops.divergences import forward_kl, jsd, reverse_kl
from distillability.ops.logprobs import chosen_logprobs
from distillability.ops.reduce import global_mean
from distillability.ops.statistics import auc, pearson

GENERATOR = torch.Generator().manual_seed(0)
TEACHER = 3 * torch.randn(6, 11, generator=GENERATOR, dtype=torch.float64)
STUDENT = 3 * torch.randn(6, 11, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize(("ours", "theirs"), [(forward_kl, reference.forward_kl), (reverse_kl, reference.reverse_kl)])
def test_kl_against_the_reference(ours, theirs) -> None:  # type: ignore[no-untyped-def]
    expected = [theirs(t, s) for t, s in zip(TEACHER.tolist(), STUDENT.tolist(), strict=True)]
    assert torch.allclose(ours(teacher_logits=TEACHER, student_logits=STUDENT), torch.tensor(expected, dtype=torch.float64))
    single = ours(teacher_logits=TEACHER.float(), student_logits=STUDENT.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_jsd_against_the_reference(weight: float) -> None:
    expected = [reference.jsd(t, s, weight) for t, s in zip(TEACHER.tolist(), STUDENT.tolist(), strict=True)]
    found = jsd(teacher_logits=TEACHER, student_logits=STUDENT, teacher_weight=weight)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))
    swapped = jsd(teacher_logits=STUDENT, student_logits=TEACHER, teacher_weight=1 - weight)
    assert torch.allclose(found, swapped)


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jsd])
def test_equal_distributions_diverge_by_nothing_whatever_their_logits_offset(divergence) -> None:  # type: ignore[no-untyped-def]
    assert torch.allclose(divergence(teacher_logits=TEACHER, student_logits=TEACHER + 7), torch.zeros(6, dtype=torch.float64), atol=1e-12)


def test_directions_by_a_closed_form() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL(p‖q) = log 2 − (log 3)/2 and KL(q‖p) = (3 log 3)/4 − log 2.
    p, q = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.25, 0.75]]).double().log()
    assert forward_kl(teacher_logits=p, student_logits=q).item() == pytest.approx(math.log(2) - math.log(3) / 2)
    assert reverse_kl(teacher_logits=p, student_logits=q).item() == pytest.approx(0.75 * math.log(3) - math.log(2))


def test_a_teacher_without_mass_on_a_token_adds_nothing_there() -> None:
    teacher = torch.tensor([[0.0, 1.0, -math.inf]], dtype=torch.float64)
    student = torch.tensor([[0.3, 0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    value = forward_kl(teacher_logits=teacher, student_logits=student)
    value.sum().backward()
    assert value.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jsd])
def test_gradients(divergence) -> None:  # type: ignore[no-untyped-def]
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: divergence(teacher_logits=TEACHER, student_logits=logits), (student,))


def test_the_gradient_of_forward_kl_is_q_minus_p() -> None:
    student = STUDENT.clone().requires_grad_()
    forward_kl(teacher_logits=TEACHER, student_logits=student).sum().backward()
    assert torch.allclose(student.grad, STUDENT.softmax(-1) - TEACHER.softmax(-1))  # type: ignore[arg-type]


def test_another_vocabulary_is_refused_with_what_would_work() -> None:
    with pytest.raises(UserError, match="seqkd"):
        forward_kl(teacher_logits=TEACHER[:, :5], student_logits=STUDENT)


def test_jsd_refuses_a_weight_that_is_no_mixture() -> None:
    with pytest.raises(ValueError, match="teacher_weight"):
        jsd(teacher_logits=TEACHER, student_logits=STUDENT, teacher_weight=1.0)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_return_sums(name: str) -> None:
    objective = build_objective(name)
    targets = torch.tensor([0, 3, 5, 10, 2, 2])
    teacher = TEACHER if objective.needs_teacher_logits else None
    output = objective(student_logits=STUDENT, teacher_logits=teacher, target_ids=targets)
    assert output.n_tokens == 6
    parts = [
        objective(student_logits=STUDENT[i : i + 1], teacher_logits=None if teacher is None else teacher[i : i + 1], target_ids=targets[i : i + 1])
        for i in range(6)
    ]
    assert output.sum.item() == pytest.approx(sum(part.sum.item() for part in parts))


def test_seqkd_is_the_cross_entropy_of_the_trace() -> None:
    targets = torch.tensor([0, 3, 5, 10, 2, 2])
    output = OBJECTIVES["seqkd"](student_logits=STUDENT, teacher_logits=None, target_ids=targets)
    rows = zip(STUDENT.tolist(), targets.tolist(), strict=True)
    assert output.sum.item() == pytest.approx(-sum(reference.log_softmax(row)[target] for row, target in rows))


def test_a_logits_objective_without_logits_is_an_error() -> None:
    with pytest.raises(ValueError, match="forward_kl needs"):
        OBJECTIVES["forward_kl"](student_logits=STUDENT, teacher_logits=None, target_ids=torch.zeros(6, dtype=torch.long))


def test_the_shift() -> None:
    labels = torch.tensor([[9, IGNORE, 4, 5], [IGNORE, IGNORE, IGNORE, 7]])
    rows, columns, targets = next_token_positions(labels)
    assert rows.tolist() == [0, 0, 1]
    assert columns.tolist() == [1, 2, 2]
    assert targets.tolist() == [4, 5, 7]


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_padding_on_either_side_moves_positions_and_nothing_else(padding: int) -> None:
    labels = torch.tensor([[IGNORE, 4, 5], [IGNORE, IGNORE, 7]])
    pad = torch.full((2, padding), IGNORE)
    for padded in (torch.cat([labels, pad], 1), torch.cat([pad, labels], 1)):
        rows, _, targets = next_token_positions(padded)
        assert rows.tolist() == [0, 0, 1]
        assert targets.tolist() == [4, 5, 7]


def test_the_division_adds_up_over_micro_batches() -> None:
    sums, counts = torch.tensor([3.0, 5.0, 1.0]), [4, 2, 1]
    whole = global_mean(sums.sum(), sum(counts))
    assert sum(global_mean(total, sum(counts)) for total in sums).item() == pytest.approx(whole.item())
    halves = [global_mean(sums[:2].sum(), sum(counts), world_size=2), global_mean(sums[2:].sum(), sum(counts), world_size=2)]
    assert (halves[0] + halves[1]).item() / 2 == pytest.approx(whole.item())


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chosen_logprobs_do_not_depend_on_the_chunk(chunk: int) -> None:
    hidden, head = torch.randn(7, 5, generator=GENERATOR), torch.nn.Linear(5, 13)
    targets = torch.randint(13, (7,), generator=GENERATOR)
    expected = head(hidden).log_softmax(-1)[torch.arange(7), targets]
    assert torch.allclose(chosen_logprobs(hidden, head, targets, chunk=chunk), expected, atol=1e-6)


def test_auc_and_correlation() -> None:
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx(3.5 / 4)
    assert auc(torch.tensor([]), torch.tensor([1.0])) is None
    assert pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])) == pytest.approx(1.0)
    assert pearson(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 4.0])) is None
    assert pearson(torch.tensor([1.0]), torch.tensor([2.0])) is None
