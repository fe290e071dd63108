"""Divergences, the shift, the division, chosen log-probabilities and statistics against float64 references and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import reference
from distillability.errors import UserError
from distillability.ops import rowwise
from distillability.ops.align import IGNORE, next_token_positions
from distillability.ops.divergences import forward_kl, jsd, reverse_kl, skewed_forward_kl, skewed_reverse_kl, total_variation
from distillability.ops.logprobs import chosen_logprobs, token_logprobs
from distillability.ops.reduce import global_mean
from distillability.ops.statistics import auc, pearson

Divergence = Callable[..., torch.Tensor]
DIVERGENCES: list[Any] = [forward_kl, reverse_kl, jsd, skewed_forward_kl, skewed_reverse_kl, total_variation]
REFERENCES: dict[Any, Callable[[list[float], list[float]], float]] = {
    forward_kl: reference.forward_kl,
    reverse_kl: reference.reverse_kl,
    jsd: lambda teacher, student: reference.jsd(teacher, student, 0.5),
    skewed_forward_kl: lambda teacher, student: reference.skewed_forward_kl(teacher, student, 0.1),
    skewed_reverse_kl: lambda teacher, student: reference.skewed_reverse_kl(teacher, student, 0.1),
    total_variation: reference.total_variation,
}
INF, NAN = math.inf, math.nan
GENERATOR = torch.Generator().manual_seed(0)
TEACHER = 3 * torch.randn(6, 11, generator=GENERATOR, dtype=torch.float64)
STUDENT = 3 * torch.randn(6, 11, generator=GENERATOR, dtype=torch.float64)


def _without(logits: torch.Tensor, *tokens: int) -> torch.Tensor:
    """The same logits with no mass on `tokens`."""
    return logits.index_fill(-1, torch.tensor(tokens), -INF)


def _expected(divergence: Divergence, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    rows = zip(teacher.tolist(), student.tolist(), strict=True)
    return torch.tensor([REFERENCES[divergence](t, s) for t, s in rows], dtype=torch.float64)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)])
def test_divergences_against_the_reference(divergence: Divergence, dtype: torch.dtype, tolerance: float) -> None:
    teacher, student = TEACHER.to(dtype), STUDENT.to(dtype)
    found = divergence(teacher_logits=teacher, student_logits=student)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(found.double(), _expected(divergence, teacher.double(), student.double()), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_jsd_against_the_reference_at_every_weight(weight: float) -> None:
    expected = [reference.jsd(t, s, weight) for t, s in zip(TEACHER.tolist(), STUDENT.tolist(), strict=True)]
    found = jsd(teacher_logits=TEACHER, student_logits=STUDENT, teacher_weight=weight)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(found, jsd(teacher_logits=STUDENT, student_logits=TEACHER, teacher_weight=1 - weight))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_logprobs_are_logits(divergence: Divergence) -> None:
    logits = divergence(teacher_logits=TEACHER, student_logits=STUDENT)
    logprobs = divergence(teacher_logits=TEACHER.log_softmax(-1), student_logits=STUDENT.log_softmax(-1) + 7)
    assert torch.allclose(logits, logprobs)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_distributions_diverge_by_nothing_and_pull_nowhere(divergence: Divergence) -> None:
    student = (TEACHER + 7).requires_grad_()
    found = divergence(teacher_logits=TEACHER, student_logits=student)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert torch.allclose(found, torch.zeros(6, dtype=torch.float64), atol=1e-12)
    if divergence is not total_variation:  # its gradient is ±½ on either side, however near
        assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-12)


def test_directions_by_a_closed_form() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL(p‖q) = log 2 − (log 3)/2 and KL(q‖p) = (3 log 3)/4 − log 2.
    p, q = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.25, 0.75]]).double().log()
    assert forward_kl(teacher_logits=p, student_logits=q).item() == pytest.approx(math.log(2) - math.log(3) / 2)
    assert reverse_kl(teacher_logits=p, student_logits=q).item() == pytest.approx(0.75 * math.log(3) - math.log(2))


@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_jsd_of_disjoint_distributions_is_the_entropy_of_its_weights(weight: float) -> None:
    p, q = torch.tensor([[0.0, -INF]]).double(), torch.tensor([[-INF, 0.0]]).double()
    found = jsd(teacher_logits=p, student_logits=q, teacher_weight=weight)
    assert found.item() == pytest.approx(-weight * math.log(weight) - (1 - weight) * math.log(1 - weight))


@pytest.mark.parametrize("skew", [0.1, 0.5, 0.9])
def test_skewed_divergences_against_the_reference_and_their_bound_at_every_skew(skew: float) -> None:
    rows = list(zip(TEACHER.tolist(), STUDENT.tolist(), strict=True))
    for divergence, name in ((skewed_forward_kl, "skewed_forward_kl"), (skewed_reverse_kl, "skewed_reverse_kl")):
        found = divergence(teacher_logits=TEACHER, student_logits=STUDENT, skew=skew)
        assert found.tolist() == pytest.approx([getattr(reference, name)(t, s, skew) for t, s in rows])
        p, q = torch.tensor([[0.0, -INF]]).double(), torch.tensor([[-INF, 0.0]]).double()
        assert divergence(teacher_logits=p, student_logits=q, skew=skew).item() == pytest.approx(-math.log(skew))


@pytest.mark.parametrize("skew", [-0.1, 0.0, 1.0])
def test_skewed_divergences_refuse_a_skew_that_leaves_one_model_out(skew: float) -> None:
    for divergence in (skewed_forward_kl, skewed_reverse_kl):
        with pytest.raises(ValueError, match="skew"):
            divergence(teacher_logits=TEACHER, student_logits=STUDENT, skew=skew)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_token_that_neither_model_can_represent_in_float32_adds_nothing(divergence: Divergence) -> None:
    far = torch.tensor([[0.0, 1.0, -103.5, -120.0]])
    student = far.clone().requires_grad_()
    found = divergence(teacher_logits=far, student_logits=student)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_blocks_of_rows_change_nothing(divergence: Divergence, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[torch.Tensor, torch.Tensor]:
        student = STUDENT.clone().requires_grad_()
        values = divergence(teacher_logits=TEACHER, student_logits=student)
        (gradient,) = torch.autograd.grad((values * torch.arange(6)).sum(), student)
        return values, gradient

    whole = found()
    monkeypatch.setattr(rowwise, "_BLOCK_ELEMENTS", 25)  # two rows of eleven
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found(), whole, strict=True))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tokens_masked_in_both_are_as_if_they_were_not_there(divergence: Divergence) -> None:
    student = STUDENT.clone().requires_grad_()
    masked = divergence(teacher_logits=_without(TEACHER, 2, 10), student_logits=_without(student, 2, 10))
    (gradient,) = torch.autograd.grad(masked.sum(), student)
    kept = [column for column in range(11) if column not in (2, 10)]
    short = STUDENT[:, kept].clone().requires_grad_()
    shorter = divergence(teacher_logits=TEACHER[:, kept], student_logits=short)
    (expected,) = torch.autograd.grad(shorter.sum(), short)
    assert torch.allclose(masked, shorter)
    assert torch.allclose(gradient[:, kept], expected)
    assert gradient[:, [2, 10]].eq(0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("masked", ["teacher", "student"])
def test_a_token_masked_in_one_only(divergence: Divergence, masked: str) -> None:
    student = STUDENT.clone().requires_grad_()
    teacher_logits = _without(TEACHER, 2) if masked == "teacher" else TEACHER
    student_logits = _without(student, 2) if masked == "student" else student
    found = divergence(teacher_logits=teacher_logits, student_logits=student_logits)
    if (divergence, masked) in ((forward_kl, "student"), (reverse_kl, "teacher")):
        assert found.isposinf().all()  # the definition: mass where the other has none
        return
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert torch.allclose(found, _expected(divergence, teacher_logits, student_logits.detach()))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_position_where_the_teacher_says_nothing_is_missing_and_leaves_the_others_alone(divergence: Divergence) -> None:
    teacher = TEACHER.clone()
    teacher[3] = -INF
    found = divergence(teacher_logits=teacher, student_logits=STUDENT)
    others = [0, 1, 2, 4, 5]
    assert found[3].isnan()
    assert torch.equal(found[others], divergence(teacher_logits=TEACHER, student_logits=STUDENT)[others])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients(divergence: Divergence) -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: divergence(teacher_logits=TEACHER, student_logits=logits), (student,))


def test_the_gradient_of_forward_kl_is_q_minus_p() -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(forward_kl(teacher_logits=TEACHER, student_logits=student).sum(), student)
    assert torch.allclose(gradient, STUDENT.softmax(-1) - TEACHER.softmax(-1))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("teacher", [TEACHER[:, :5], TEACHER[:1], TEACHER[0]])
def test_other_shapes_are_refused_with_what_would_work(divergence: Divergence, teacher: torch.Tensor) -> None:
    with pytest.raises(UserError, match="seqkd"):
        divergence(teacher_logits=teacher, student_logits=STUDENT)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1])
def test_jsd_refuses_a_weight_that_is_no_mixture(weight: float) -> None:
    with pytest.raises(ValueError, match="teacher_weight"):
        jsd(teacher_logits=TEACHER, student_logits=STUDENT, teacher_weight=weight)


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
    for padded, moved in ((torch.cat([labels, pad], 1), 0), (torch.cat([pad, labels], 1), padding)):
        rows, columns, targets = next_token_positions(padded)
        assert rows.tolist() == [0, 0, 1]
        assert (columns - moved).tolist() == [0, 1, 1]
        assert targets.tolist() == [4, 5, 7]


def test_the_division_adds_up_over_micro_batches_and_processes() -> None:
    sums, counts = torch.tensor([3.0, 5.0, 1.0]), [4, 2, 1]
    whole = global_mean(sums.sum(), sum(counts))
    assert whole.item() == pytest.approx(9 / 7)
    assert sum(global_mean(total, torch.tensor(sum(counts))).item() for total in sums) == pytest.approx(whole.item())
    processes = [global_mean(total, sum(counts), world_size=2) for total in (sums[:2].sum(), sums[2])]
    assert (processes[0] + processes[1]).item() / 2 == pytest.approx(whole.item())


@pytest.mark.parametrize("nothing", [0, torch.tensor(0)])
def test_the_division_refuses_a_mean_of_nothing(nothing: int | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="0 tokens"):
        global_mean(torch.tensor(0.0), nothing)


def _head(vocabulary: int = 13) -> tuple[torch.Tensor, torch.nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    return hidden, torch.nn.Linear(5, vocabulary, dtype=torch.float64), torch.randint(vocabulary, (7,))


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chosen_logprobs_against_the_reference_gradient_included(chunk: int) -> None:
    hidden, head, targets = _head()
    found = chosen_logprobs(hidden, head, targets, chunk=chunk)
    logits = head(hidden)
    rows = zip(logits.tolist(), targets.tolist(), strict=True)
    assert found.tolist() == pytest.approx([-reference.cross_entropy(row, target) for row, target in rows])
    inputs = [hidden, head.weight, head.bias]
    expected = torch.autograd.grad(-torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), inputs)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), inputs), expected, strict=True):
        assert torch.allclose(ours, theirs)


def test_token_logprobs_against_the_reference_gradient_included() -> None:
    targets = torch.tensor([0, 3, 5, 10, 2, 2])
    student = STUDENT.clone().requires_grad_()
    found = token_logprobs(student, targets)
    rows = zip(STUDENT.tolist(), targets.tolist(), strict=True)
    assert found.tolist() == pytest.approx([-reference.cross_entropy(row, target) for row, target in rows])
    assert torch.autograd.gradcheck(lambda logits: token_logprobs(logits, targets) * torch.arange(6), (student,))
    assert token_logprobs(STUDENT.bfloat16(), targets).dtype == torch.float32


def test_chosen_logprobs_keep_nothing_as_wide_as_the_vocabulary() -> None:
    hidden, head, targets = _head()

    def widest(forward: Callable[[], torch.Tensor]) -> int:
        kept: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            forward()
        return max(kept)

    whole = 7 * 13
    assert widest(lambda: head(hidden).log_softmax(-1)[torch.arange(7), targets]) >= whole
    assert widest(lambda: chosen_logprobs(hidden, head, targets, chunk=2)) < whole
    seen: list[int] = []
    head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    chosen_logprobs(hidden, head, targets, chunk=2).sum().backward()  # type: ignore[no-untyped-call]
    assert sorted(seen) == [1, 1, 2, 2, 2, 2, 2, 2]  # each chunk twice: forward, and again in the backward pass


def test_chosen_logprobs_of_nothing_and_of_half_precision() -> None:
    hidden, head, targets = _head()
    assert chosen_logprobs(hidden[:0], head, targets[:0]).shape == (0,)
    with torch.inference_mode():
        assert chosen_logprobs(hidden.bfloat16(), head.bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("n", [3, 6])
def test_chosen_logprobs_refuse_positions_without_their_target(n: int) -> None:
    hidden, head, targets = _head()
    with pytest.raises(ValueError, match=f"7 positions for {n} targets"):
        chosen_logprobs(hidden, head, targets[:n], chunk=2)


def test_auc_against_the_reference_with_ties() -> None:
    positive = torch.randint(5, (40,), generator=GENERATOR).double() + 1
    negative = torch.randint(5, (30,), generator=GENERATOR).double()
    found = auc(positive, negative)
    assert found == pytest.approx(reference.auc(positive.tolist(), negative.tolist()))
    assert auc(negative, positive) == pytest.approx(1 - found)  # type: ignore[operator]
    assert auc(torch.ones(3), torch.ones(2)) == 0.5
    assert auc(torch.tensor([-INF, 1.0]), torch.tensor([0.0])) == 0.5


def test_auc_leaves_out_the_missing_and_is_missing_where_nothing_is_left() -> None:
    assert auc(torch.tensor([2.0, NAN]), torch.tensor([1.0, 3.0, NAN])) == 0.5
    assert auc(torch.tensor([]), torch.tensor([1.0])) is None
    assert auc(torch.tensor([1.0]), torch.tensor([NAN])) is None


def test_correlation_against_the_reference() -> None:
    first = torch.randn(30, generator=GENERATOR, dtype=torch.float64)
    second = 0.5 * first + torch.randn(30, generator=GENERATOR, dtype=torch.float64)
    expected = reference.pearson(first.tolist(), second.tolist())
    assert pearson(first, second) == pytest.approx(expected)
    assert pearson(1e-9 * first, -1e6 * second) == pytest.approx(-expected)  # units do not matter


def test_correlation_leaves_out_pairs_with_a_missing_side() -> None:
    first, second = torch.tensor([1.0, 2.0, NAN, 4.0, 9.0]), torch.tensor([2.0, 1.0, 7.0, 5.0, NAN])
    assert pearson(first, second) == pytest.approx(reference.pearson([1, 2, 4], [2, 1, 5]))


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0], [2.0]), ([], []), ([0.1, 0.1, 0.1], [1e6, 2e6, 5e6]), ([1.0, NAN, 3.0], [NAN, 2.0, 3.0]), ([NAN, NAN], [1.0, 2.0])],
)
def test_correlation_is_missing_where_nothing_varies_or_too_little_is_known(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    assert pearson(a, b) is None
    assert pearson(b, a) is None


def test_correlation_refuses_vectors_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0]))
