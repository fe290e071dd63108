"""Objectives: sums against float64 references, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import reference
from command_line import ROOT
from distillability.config.objectives import OBJECTIVE_RECORDS, ObjectiveRecord
from distillability.errors import UserError
from distillability.objectives import OBJECTIVES, ObjectiveSettings, build_objective
from distillability.ops.support import on_top_k

GENERATOR = torch.Generator().manual_seed(0)
TEACHER = 3 * torch.randn(6, 11, generator=GENERATOR, dtype=torch.float64)
STUDENT = 3 * torch.randn(6, 11, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.tensor([0, 3, 5, 10, 2, 2])
K = 4  # of eleven tokens
PER_POSITION: dict[str, Callable[[list[float], list[float], int], float]] = {
    "seqkd": lambda teacher, student, target: reference.cross_entropy(student, target),
    "forward_kl": lambda teacher, student, target: reference.forward_kl(teacher, student),
    "reverse_kl": lambda teacher, student, target: reference.reverse_kl(teacher, student),
    "jsd": lambda teacher, student, target: reference.jsd(teacher, student, 0.5),
    "skewed_forward_kl": lambda teacher, student, target: reference.skewed_forward_kl(teacher, student, 0.1),
    "skewed_reverse_kl": lambda teacher, student, target: reference.skewed_reverse_kl(teacher, student, 0.1),
    "total_variation": lambda teacher, student, target: reference.total_variation(teacher, student),
    "top_k_forward_kl": lambda teacher, student, target: reference.forward_kl(*reference.top_k(teacher, student, K, rest=True)),
    "top_k_reverse_kl": lambda teacher, student, target: reference.reverse_kl(*reference.top_k(teacher, student, K, rest=True)),
    "uld": lambda teacher, student, target: reference.cross_entropy(student, target) + 1.5 * reference.sorted_distance(teacher, student),
}
NEED_LOGITS = sorted(name for name, objective in OBJECTIVES.items() if objective.needs_teacher_logits)
ONE_VOCABULARY = sorted(name for name, objective in OBJECTIVES.items() if not objective.crosses_tokenizers)


def _call(name: str, student: torch.Tensor = STUDENT, teacher: torch.Tensor = TEACHER, targets: torch.Tensor = TARGETS) -> torch.Tensor:
    objective = build_objective(name, ObjectiveSettings(top_k=K))
    return objective(student_logits=student, teacher_logits=teacher if objective.needs_teacher_logits else None, target_ids=targets)


def test_the_registry_holds_what_recipes_may_name() -> None:
    assert list(OBJECTIVES) == list(OBJECTIVE_RECORDS) and set(OBJECTIVES) == set(PER_POSITION)
    assert all(objective.name == name for name, objective in OBJECTIVES.items())
    assert set(OBJECTIVES) - set(ONE_VOCABULARY) == {"seqkd", "uld"}
    assert set(OBJECTIVES) - set(NEED_LOGITS) == {"seqkd"}
    with pytest.raises(UserError, match=r"use one of .*forward_kl"):
        build_objective("nonsense")


@pytest.mark.parametrize("record", OBJECTIVE_RECORDS.values(), ids=list(OBJECTIVE_RECORDS))
def test_the_page_of_concepts_has_a_row_for_each_objective(record: ObjectiveRecord) -> None:
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").replace("\\|", "|")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{record.name}` |"))
    assert record.formula in row
    assert all(f"`distill.{key}" in row for key in record.settings.values())
    assert {*record.settings.values()} <= {*ObjectiveSettings.model_fields}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_is_the_sum_of_its_definition_over_positions(name: str) -> None:
    rows = zip(TEACHER.tolist(), STUDENT.tolist(), TARGETS.tolist(), strict=True)
    output = _call(name)
    assert output.item() == pytest.approx(sum(PER_POSITION[name](*row) for row in rows), rel=1e-12)
    halves = [_call(name, STUDENT[part], TEACHER[part], TARGETS[part]) for part in (slice(0, 1), slice(1, 6))]
    assert sum(half.item() for half in halves) == pytest.approx(output.item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients(name: str) -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: _call(name, logits), (student,))


@pytest.mark.parametrize("name", ONE_VOCABULARY)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name: str) -> None:
    assert _call(name, TEACHER).item() == pytest.approx(0, abs=1e-12)


def test_seqkd_ends_in_certainty_about_the_trace() -> None:
    certain = torch.full((6, 11), -math.inf, dtype=torch.float64)
    certain[torch.arange(6), TARGETS] = 0.0
    assert _call("seqkd", certain).item() == 0


def test_jsd_takes_its_weight_from_the_recipe() -> None:
    output = build_objective("jsd", ObjectiveSettings(jsd_weight=0.2))(student_logits=STUDENT, teacher_logits=TEACHER, target_ids=TARGETS)
    expected = sum(reference.jsd(t, s, 0.2) for t, s in zip(TEACHER.tolist(), STUDENT.tolist(), strict=True))
    assert output.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["skewed_forward_kl", "skewed_reverse_kl"])
def test_skewed_divergences_take_their_skew_from_the_recipe(name: str) -> None:
    output = build_objective(name, ObjectiveSettings(skew=0.4))(student_logits=STUDENT, teacher_logits=TEACHER, target_ids=TARGETS)
    rows = zip(TEACHER.tolist(), STUDENT.tolist(), strict=True)
    assert output.item() == pytest.approx(sum(getattr(reference, name)(t, s, 0.4) for t, s in rows))


@pytest.mark.parametrize("name", NEED_LOGITS)
def test_a_logits_objective_without_logits_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs"):
        OBJECTIVES[name](student_logits=STUDENT, teacher_logits=None, target_ids=TARGETS)


@pytest.mark.parametrize("name", ONE_VOCABULARY)
def test_another_vocabulary_is_refused_with_what_would_work(name: str) -> None:
    with pytest.raises(UserError, match="seqkd"):
        _call(name, teacher=TEACHER[:, :5])


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_position_has_a_target_and_every_target_is_a_token(name: str) -> None:
    with pytest.raises(ValueError, match=r"targets \(5,\) for 6 positions"):
        _call(name, targets=TARGETS[:5])
    for outside in (-100, 11):
        with pytest.raises(UserError, match="outside the student's vocabulary of 11"):
            _call(name, targets=TARGETS.index_fill(0, torch.tensor(3), outside))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_position_is_a_sum_of_nothing(name: str) -> None:
    output = _call(name, STUDENT[:0], TEACHER[:0], TARGETS[:0])
    assert output.item() == 0


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_student_that_has_diverged_is_an_error_not_a_loss(name: str) -> None:
    with pytest.raises(UserError, match="0 are infinite and 1 not a number"):
        _call(name, STUDENT.index_fill(0, torch.tensor(3), math.nan))


def test_mass_where_the_teacher_has_none_is_an_error_of_plain_reverse_kl_only() -> None:
    masked = TEACHER.index_fill(1, torch.tensor(4), -math.inf)
    with pytest.raises(UserError, match="of 6 positions 6 are infinite"):
        _call("reverse_kl", teacher=masked)
    assert _call("forward_kl", teacher=masked).isfinite()
    for name in ("jsd", "skewed_forward_kl", "skewed_reverse_kl"):
        assert _call(name, teacher=masked).isfinite()


TOP_K = {"top_k_forward_kl": reference.forward_kl, "top_k_reverse_kl": reference.reverse_kl}


@pytest.mark.parametrize("name", TOP_K)
def test_the_k_likeliest_tokens_can_be_renormalised(name: str) -> None:
    objective = build_objective(name, ObjectiveSettings(top_k=3, top_k_rest=False))
    output = objective(student_logits=STUDENT, teacher_logits=TEACHER, target_ids=TARGETS)
    rows = zip(TEACHER.tolist(), STUDENT.tolist(), strict=True)
    assert output.item() == pytest.approx(sum(TOP_K[name](*reference.top_k(*row, 3, rest=False)) for row in rows))


@pytest.mark.parametrize("name", TOP_K)
@pytest.mark.parametrize("k", [2, 3, 5, 11, 20])
def test_renormalised_models_share_the_teacher_s_support(name: str, k: int) -> None:
    """Teachers with mass on 1 to 5 tokens: which of the others are among the k is arbitrary, so none may count."""
    generator = torch.Generator().manual_seed(k)
    teacher = TEACHER.clone()
    for row in range(len(teacher)):
        teacher[row, torch.randperm(11, generator=generator)[1 + row % 5 :]] = -math.inf
    objective = build_objective(name, ObjectiveSettings(top_k=k, top_k_rest=False))
    student = STUDENT.clone().requires_grad_()
    output = objective(student_logits=student, teacher_logits=teacher, target_ids=TARGETS)
    pairs = [reference.top_k(*row, k, rest=False) for row in zip(teacher.tolist(), STUDENT.tolist(), strict=True)]
    assert output.item() == pytest.approx(sum(TOP_K[name](*pair) for pair in pairs), rel=1e-12)
    (gradient,) = torch.autograd.grad(output, student)
    assert gradient.isfinite().all() and gradient[teacher.isneginf()].abs().max() < 1e-12


@pytest.mark.parametrize("name", TOP_K)
def test_all_tokens_are_the_plain_divergence(name: str) -> None:
    plain = _call(name.removeprefix("top_k_"))
    for k in (11, 32):
        for rest in (True, False):
            objective = build_objective(name, ObjectiveSettings(top_k=k, top_k_rest=rest))
            output = objective(student_logits=STUDENT, teacher_logits=TEACHER, target_ids=TARGETS)
            assert torch.equal(output, plain)


@pytest.mark.parametrize("name", TOP_K)
def test_only_the_k_likeliest_and_their_mass_are_seen(name: str) -> None:
    """What a teacher says of the others changes nothing, so that their log-probabilities need not be known."""
    top = TEACHER.topk(K).indices
    others = torch.ones_like(TEACHER, dtype=torch.bool).scatter(1, top, False)
    shuffled = TEACHER.clone()
    shuffled[others] = TEACHER[others].view(6, 11 - K).flip(1).flatten()
    assert _call(name, teacher=shuffled).item() == pytest.approx(_call(name).item())


@pytest.mark.parametrize("name", TOP_K)
def test_no_mass_outside_has_no_slope(name: str) -> None:
    """As where both models have the padding of a vocabulary masked: what is left is the plain divergence and its gradient."""
    teacher, student = (torch.cat((logits[:, :K], torch.full((6, 3), -math.inf)), 1) for logits in (TEACHER, STUDENT))
    gradients = []
    for objective in (build_objective(name, ObjectiveSettings(top_k=K)), build_objective(name.removeprefix("top_k_"))):
        logits = student.clone().requires_grad_()
        output = objective(student_logits=logits, teacher_logits=teacher, target_ids=TARGETS % K)
        gradients.append(torch.autograd.grad(output, logits)[0])
    assert torch.allclose(*gradients) and gradients[0].isfinite().all()


def test_the_mass_outside_is_not_lost_where_one_minus_the_rest_would_be_0() -> None:
    logits = torch.full((2, 6), -40.0)
    logits[:, 0] = 0.0

    def seen(*, teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
        return torch.stack((teacher_logits, student_logits))

    for found in on_top_k(seen, teacher_logits=logits, student_logits=logits, k=1, rest=True):
        assert found[:, 1].tolist() == pytest.approx([math.log(5) - 40] * 2)


@pytest.mark.parametrize("width", [1, 5, 11, 20])
def test_a_teacher_of_another_vocabulary_is_compared_token_rank_by_token_rank(width: int) -> None:
    teacher = 3 * torch.randn(6, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
    teacher[2] = -math.inf
    expected = sum(PER_POSITION["uld"](*row) for row in zip(teacher.tolist(), STUDENT.tolist(), TARGETS.tolist(), strict=True))
    assert _call("uld", teacher=teacher).item() == pytest.approx(expected, rel=1e-12)
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: _call("uld", logits, teacher), (student,))


def test_uld_without_aligned_positions_is_seqkd() -> None:
    silent = torch.full((6, 4), -math.inf, dtype=torch.float64)
    assert torch.equal(_call("uld", teacher=silent), _call("seqkd"))
    assert build_objective("uld", ObjectiveSettings(uld_weight=0.0))(
        student_logits=STUDENT, teacher_logits=TEACHER, target_ids=TARGETS
    ).item() == pytest.approx(_call("seqkd").item())


def test_a_teacher_that_is_no_number_is_not_taken_for_a_silent_one() -> None:
    with pytest.raises(UserError, match="not a number"):
        _call("uld", teacher=TEACHER.index_fill(0, torch.tensor(1), math.nan))


def test_uld_does_not_mind_which_token_is_which() -> None:
    moved = TEACHER[:, torch.randperm(11, generator=torch.Generator().manual_seed(3))]
    assert _call("uld", teacher=moved).item() == pytest.approx(_call("uld").item(), rel=1e-12)
    with pytest.raises(ValueError, match="5 and 6 positions"):
        _call("uld", teacher=TEACHER[:5])
