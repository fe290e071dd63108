"""Every measure against a naive float64 reference or a closed form, and where it must be missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import reference
from distillability.diagnosis import SYMPTOMS, TRAPS, Diagnosis, find
from distillability.diagnosis.estimates import Estimate, mean, paired_change, ratio_of_sums
from distillability.diagnosis.evidence import (
    Answers,
    Compared,
    Evidence,
    HeadGradients,
    Recoveries,
    TokenStats,
    Traced,
    TracePair,
    WeightedSamples,
)
from distillability.diagnosis.findings import Rule
from distillability.diagnosis.gap import preference
from distillability.diagnosis.off_policy import cosine_of_groups, log_effective_share, pareto_threshold, tail_index
from distillability.diagnosis.overconfidence import area_under_curve, expected_calibration_error
from distillability.diagnosis.position_stats import GROUPS, HeadGradient, compare_positions, curve_ks, describe_positions
from distillability.diagnosis.tail_noise import token_class

VOCABULARY, TOP_K, TEXTS, LENGTH, WIDTH = 40, 4, 32, 12, 6
SHARES = ("tail_share", "noise_share", "reverse_tail_share", "gradient_tail", "hidden_gradient_tail", "filler_excess")


def draw(seed: int, n: int = TEXTS * LENGTH) -> torch.Tensor:
    return torch.randn(n, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def mixed(logits: torch.Tensor, other: torch.Tensor, dose: float) -> torch.Tensor:
    """log((1 − dose) p + dose other)."""
    return ((1 - dose) * logits.softmax(-1) + dose * other).log()


def stats(logprobs: torch.Tensor, targets: torch.Tensor) -> TokenStats:
    return TokenStats(**where(), **{name: values.numpy() for name, values in describe_positions(logprobs, targets).items()})


def where() -> dict[str, Any]:
    return {"text": np.repeat(np.arange(TEXTS), LENGTH), "place": np.tile(np.arange(LENGTH) / LENGTH, TEXTS)}


def traced(teacher: torch.Tensor, student: torch.Tensor, seed: int, shared: bool = True) -> Traced:
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    targets = torch.multinomial(log_p.exp(), 1, generator=torch.Generator().manual_seed(seed)).squeeze(-1)
    numbers, _, _ = compare_positions(teacher_logprobs=log_p, student_logprobs=log_q, targets=targets, top_k=TOP_K)
    words = ["the" if target % 3 else f"w{target}" for target in targets.tolist()]
    compared = Compared(
        **where(),
        token=words,
        teacher_choice=words,
        student_choice=words,
        **{name: values.numpy() for name, values in numbers.items()},
    )
    texts = ["x" * LENGTH] * TEXTS
    never, always = [False] * TEXTS, [True] * TEXTS
    told = stats(log_p, targets), stats(log_q, targets)
    return Traced(texts, always, never, *told, compared if shared else None, gradients=gradients(log_p, log_q) if shared else None)


def head() -> tuple[torch.Tensor, torch.Tensor]:
    """An output head [V, D] and hidden states [N, D]."""
    random = torch.Generator().manual_seed(8)
    shapes = (VOCABULARY, WIDTH), (TEXTS * LENGTH, WIDTH)
    weight, states = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes)
    return weight, states + 1


def gradients(log_p: torch.Tensor, log_q: torch.Tensor) -> HeadGradients:
    weight, states = head()
    collected = HeadGradient(weight)
    numbers = collected.add(teacher_logprobs=log_p, student_logprobs=log_q, states=states, texts=torch.tensor(where()["text"]))
    return HeadGradients(collected.groups.numpy(), **{name: values.numpy() for name, values in numbers.items()})


def evidence(teacher: torch.Tensor, student: torch.Tensor, **other: Any) -> Evidence:
    along = traced(teacher, student, seed=5, shared=other.pop("shared", True))
    fields: dict[str, Any] = {
        "on_teacher": along,
        "on_student": along,
        "curve_k": curve_ks(VOCABULARY),
        "top_k": TOP_K,
        "weights": WeightedSamples([np.zeros(64)] * 8),
        "pairs": [TracePair("planted", row, -1.0, -2.0, -1.0, -2.0) for row in range(TEXTS)],
    }
    return Evidence(**fields | other)


def found(evidence: Evidence, symptoms: bool = False) -> Diagnosis:
    return Diagnosis("t", "s", "task", find(evidence, symptoms=symptoms))


def test_position_statistics_equal_the_naive_reference() -> None:
    teacher, student = draw(1, 6), draw(2, 6)
    student[0, 3] = -math.inf  # a token without student mass, where the teacher has some
    teacher[1, 5] = student[1, 5] = -math.inf  # one that neither has
    targets = torch.tensor([0, 1, 2, 3, 4, 39])
    numbers, teacher_choice, student_choice = compare_positions(
        teacher_logprobs=teacher.log_softmax(-1), student_logprobs=student.log_softmax(-1), targets=targets, top_k=TOP_K
    )
    assert set(numbers) == set(Compared.numbers())
    for row in range(6):
        expected = reference.compared(teacher[row].tolist(), student[row].tolist(), int(targets[row]), TOP_K, curve_ks(VOCABULARY))
        for name, value in expected.items():
            assert numbers[name][row].tolist() == pytest.approx(value, rel=1e-9, abs=1e-12), (row, name)
        assert teacher_choice[row] == teacher[row].argmax() and student_choice[row] == student[row].argmax()


def test_what_one_model_says_equals_the_naive_reference() -> None:
    logits, targets = draw(3, 4), torch.tensor([0, 7, 9, 11])
    numbers = describe_positions(logits.log_softmax(-1), targets)
    for row in range(4):
        logprobs = reference.log_softmax(logits[row].tolist())
        assert numbers["logprob"][row].item() == pytest.approx(logprobs[targets[row]])
        assert numbers["entropy"][row].item() == pytest.approx(-sum(math.exp(value) * value for value in logprobs))
        assert numbers["likeliest"][row].item() == float(max(logprobs) == logprobs[targets[row]])


def test_the_curve_ends_at_the_whole_kl_and_never_falls() -> None:
    numbers, _, _ = compare_positions(
        teacher_logprobs=draw(1).log_softmax(-1),
        student_logprobs=draw(2).log_softmax(-1),
        targets=torch.zeros(TEXTS * LENGTH, dtype=torch.long),
        top_k=TOP_K,
    )
    assert torch.allclose(numbers["curve"][:, -1], numbers["forward_kl"])
    assert (numbers["curve"].diff(dim=-1) >= 0).all()


def test_where_teacher_and_student_agree_shares_are_missing_and_the_rest_is_nothing() -> None:
    diagnosis = found(evidence(draw(1), draw(1)))
    for name in SHARES:
        assert diagnosis[name].value is None and "say the same" in (diagnosis[name].estimate.reason or ""), name
        assert diagnosis[name].severity == "unknown"
    for name in (
        "teacher_nll_drift",
        "drift_slope",
        "kl_drift",
        "second_moment",
        "log_ratio",
        "wrong_trace_preference",
        "log_effective_share",
    ):
        assert diagnosis[name].value == pytest.approx(0, abs=1e-9), name
    assert diagnosis["top_k_overlap"].value == 1
    assert diagnosis["gradient_cosine"].value is None and "noise" in (diagnosis["gradient_cosine"].estimate.reason or "")


def test_gradients_of_the_head_equal_the_naive_reference() -> None:
    (weight, states), (log_p, log_q) = head(), (draw(1).log_softmax(-1), draw(2).log_softmax(-1))
    found = gradients(log_p, log_q)
    expected = np.zeros((GROUPS, VOCABULARY, WIDTH))
    for row, text in enumerate(where()["text"].tolist()):
        p, q = ([math.exp(value) for value in logits[row].tolist()] for logits in (log_p, log_q))
        head_tokens: list[int] = []
        for token in sorted(range(VOCABULARY), key=lambda token: -p[token]):
            if sum(p[one] for one in head_tokens) >= 0.99:
                break
            head_tokens.append(token)
        slope = [b - a for a, b in zip(p, q, strict=True)]
        for token in range(VOCABULARY):
            expected[text % GROUPS, token] += slope[token] * states[row].numpy()
        if row % 50 == 0:
            whole = [sum(slope[t] * float(weight[t, d]) for t in range(VOCABULARY)) ** 2 for d in range(WIDTH)]
            tail = [sum(slope[t] * float(weight[t, d]) for t in range(VOCABULARY) if t not in head_tokens) ** 2 for d in range(WIDTH)]
            assert found.hidden_l2[row] == pytest.approx(sum(whole)) and found.tail_hidden_l2[row] == pytest.approx(sum(tail))
    assert found.groups == pytest.approx(expected)


def test_chunks_of_positions_add_up_to_the_same_gradient() -> None:
    (weight, states), (log_p, log_q) = head(), (draw(1).log_softmax(-1), draw(2).log_softmax(-1))
    collected, texts = HeadGradient(weight), torch.tensor(where()["text"])
    for rows in torch.arange(len(texts)).split(7):
        collected.add(teacher_logprobs=log_p[rows], student_logprobs=log_q[rows], states=states[rows], texts=texts[rows])
    assert collected.groups.numpy() == pytest.approx(gradients(log_p, log_q).groups)


def test_a_large_vocabulary_is_folded_and_keeps_its_cosines() -> None:
    random = torch.Generator().manual_seed(0)
    states = torch.randn(64, 3, generator=random, dtype=torch.float64)
    log_p, log_q, other = (torch.randn(64, 5000, generator=random, dtype=torch.float64).mul(3).log_softmax(-1) for _ in range(3))
    texts = torch.arange(64)

    def sums(student: torch.Tensor, vocabulary: int) -> np.ndarray:
        collected = HeadGradient(torch.zeros(vocabulary, 3, dtype=torch.float64))
        if vocabulary <= 1024:  # the naive one
            return torch.stack([(student.exp() - log_p.exp())[g::GROUPS].T @ states[g::GROUPS] for g in range(GROUPS)]).numpy()
        collected.add(teacher_logprobs=log_p, student_logprobs=student, states=states, texts=texts)
        assert collected.groups.shape == (GROUPS, 1024, 3)
        return collected.groups.numpy()

    def cosine(first: np.ndarray, second: np.ndarray) -> float:
        a, b = first.sum(0).ravel(), second.sum(0).ravel()
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    exact = cosine(sums(log_q, 0), sums(other, 0))
    assert 0.2 < exact < 0.8 and cosine(sums(log_q, 5000), sums(other, 5000)) == pytest.approx(exact, abs=0.1)


def test_the_cosine_of_two_noisy_gradients_is_that_of_their_directions() -> None:
    rng = np.random.default_rng(0)
    one, two = np.zeros(500), np.zeros(500)
    one[0], two[:2] = 1.0, (math.cos(1.0), math.sin(1.0))
    noisy = [np.stack([direction + 0.05 * rng.standard_normal(500) for _ in range(GROUPS)]) for direction in (one, two)]
    plain = float(noisy[0].sum(0) @ noisy[1].sum(0) / np.linalg.norm(noisy[0].sum(0)) / np.linalg.norm(noisy[1].sum(0)))
    found = cosine_of_groups(*noisy)
    assert found.value == pytest.approx(math.cos(1.0), abs=0.03) and found.value > plain + 0.03
    assert found.low is not None and found.high is not None and found.low < math.cos(1.0) < found.high
    assert cosine_of_groups(noisy[0], 2 * noisy[0]).value == pytest.approx(1)
    assert cosine_of_groups(noisy[0], -noisy[0]).value == pytest.approx(-1)
    nothing = cosine_of_groups(noisy[0], np.zeros_like(noisy[0]))
    assert nothing.value is None and "noise" in str(nothing.reason)


def test_other_prefixes_turn_the_gradient_and_the_same_do_not() -> None:
    """The student is wrong in the same way everywhere, or in another way along its own texts."""
    wrong, otherwise = draw(1) + draw(7, 1), draw(1) + draw(9, 1)
    same = found(evidence(draw(1), wrong))
    turned = found(evidence(draw(1), wrong, on_student=traced(draw(1), otherwise, seed=6)))
    assert same["gradient_cosine"].value == pytest.approx(1)
    assert turned["gradient_cosine"].value is not None and turned["gradient_cosine"].value < 0.8


def test_a_head_that_cannot_be_applied_leaves_its_gradients_missing() -> None:
    along = replace(traced(draw(1), draw(2), seed=5), gradients=None)
    diagnosis = found(evidence(draw(1), draw(2), on_teacher=along, reasons={"gradients": "no plain head"}))
    for name in ("hidden_gradient_tail", "gradient_cosine"):
        assert diagnosis[name].value is None and diagnosis[name].estimate.reason == "no plain head"
    assert diagnosis["gradient_tail"].value is not None


def test_without_a_common_vocabulary_what_needs_one_is_missing_and_the_rest_is_there() -> None:
    told = {"compared": "teacher and student have different vocabularies"}
    diagnosis = found(evidence(draw(1), draw(2), shared=False, reasons=told))
    needing = {
        *SHARES,
        "gradient_cosine",
        "student_spill",
        "kl_drift",
        "second_moment",
        "top_k_overlap",
        "teacher_mass_covered",
        "teachable_share",
    }
    for finding in diagnosis:
        assert (finding.value is None) == (finding.name in needing | {"pareto_k", "distillability"}), finding.name
        if finding.name in needing:
            assert "different vocabularies" in finding.sentence


def test_a_token_without_student_mass_makes_the_kl_infinite_and_its_measures_missing() -> None:
    student = draw(2)
    student[0, draw(1)[0].argmax()] = -math.inf
    diagnosis = found(evidence(draw(1), student))
    assert diagnosis["noise_share"].value is None and "no mass" in (diagnosis["noise_share"].estimate.reason or "")


@pytest.mark.parametrize("doses", [(0.0, 0.02, 0.05, 0.1, 0.2)])
def test_noise_in_the_teachers_tail_moves_its_own_measure_with_the_dose(doses: tuple[float, ...]) -> None:
    teacher, student = 2 * draw(1), 2 * draw(1) + 0.5 * draw(4)
    noise = torch.full((VOCABULARY,), 1 / VOCABULARY, dtype=torch.float64)
    told = [found(evidence(mixed(teacher, noise, dose), student)) for dose in doses]
    values = [diagnosis["noise_share"].value for diagnosis in told]
    assert values == sorted(values) and values[-1] > 5 * values[0]


def test_prefixes_of_another_policy_move_the_drift_and_nothing_measured_on_the_teachers() -> None:
    teacher, student = draw(1), draw(1) + 0.3 * draw(4)
    along = traced(teacher, student, seed=5)
    told = []
    for dose in (0.0, 0.25, 0.5, 1.0):
        swapped = torch.arange(TEXTS * LENGTH)[:, None] < dose * TEXTS * LENGTH
        elsewhere = traced(torch.where(swapped, -teacher, teacher), student, seed=5)
        told.append(found(evidence(teacher, student, on_student=elsewhere)))
    drifts = [diagnosis["kl_drift"].value for diagnosis in told]
    assert drifts == sorted(drifts) and drifts[-1] > 1 and drifts[0] == pytest.approx(0)
    for name in ("noise_share", "log_ratio", "top_k_overlap"):
        assert len({diagnosis[name].value for diagnosis in told}) == 1
    assert along.compared is not None


def test_preference_counts_ties_as_one_half_and_the_teachers_is_taken_away() -> None:
    assert preference(np.array([-1.0, -1.0, -1.0]), np.array([-2.0, -1.0, -0.5])).tolist() == [0, 0.5, 1]
    pairs = [TracePair("own", row, -1.0, -2.0, -1.0, -1.0) for row in range(20)]
    finding = found(evidence(draw(1), draw(2), pairs=pairs))["wrong_trace_preference"]
    assert finding.value == 0.5 and finding.details["student"] == 0.5 and finding.details["teacher"] == 0
    assert found(evidence(draw(1), draw(2), pairs=pairs[:19]))["wrong_trace_preference"].value is None


def test_effective_share_of_equal_and_of_lone_weights() -> None:
    assert log_effective_share(np.full(64, -3.0)) == pytest.approx(0)
    assert log_effective_share(np.array([0.0, *[-1000.0] * 63])) == pytest.approx(-math.log(64))


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_the_tail_index_finds_the_shape_of_a_pareto_tail(shape: float) -> None:
    draws = np.random.default_rng(0).pareto(1 / shape, size=(40, 4000))
    assert np.mean([tail_index(np.log1p(row)) for row in draws]) == pytest.approx(shape, abs=0.1)


@pytest.mark.parametrize(
    ("size", "threshold"), [(25, 0.284662), (64, 0.446345), (1000, 2 / 3), (2154, 0.699992), (2155, 0.7), (10**6, 0.7)]
)
def test_the_threshold_of_the_tail_index_grows_with_the_sample(size: int, threshold: float) -> None:
    assert pareto_threshold(size) == pytest.approx(threshold, abs=1e-6)


def test_the_tail_index_is_read_by_the_sizes_of_its_samples() -> None:
    groups = [np.log1p(np.random.default_rng(size).pareto(2, size=size)) for size in (64, 400)]
    finding = found(evidence(draw(1), draw(2), weights=WeightedSamples([*groups, np.zeros(64)])))["pareto_k"]
    assert finding.rule.threshold == pytest.approx((0.446345 + 1 - 1 / math.log10(400)) / 2, abs=1e-6)
    assert finding.value == pytest.approx(np.mean([tail_index(group) for group in groups]))
    heavy = [np.log1p(np.random.default_rng(seed).pareto(1 / 0.8, size=64)) for seed in range(40)]
    strong = found(evidence(draw(1), draw(2), weights=WeightedSamples(heavy)))["pareto_k"]
    assert strong.value is not None and 0.446345 < strong.value < 0.7 and strong.severity == "clear"


def test_the_tail_index_is_missing_under_25_weights_and_without_a_tail() -> None:
    assert tail_index(np.random.default_rng(0).normal(size=24)) is None
    assert tail_index(np.zeros(64)) is None
    few = found(evidence(draw(1), draw(2), weights=WeightedSamples([np.zeros(24)])))
    assert few["pareto_k"].value is None and few["log_effective_share"].value is None


def answers(right: list[float], confidence: list[float], **other: Any) -> Answers:
    n = len(right)
    fields: dict[str, Any] = {"truncated": np.zeros(n), "repeated": np.zeros(n), "right_sampled": np.array(right)}
    return Answers(np.array(right), np.array(confidence), **fields | other)


def test_calibration_of_confidence_equals_the_naive_reference() -> None:
    rng = np.random.default_rng(1)
    right, confidence = (rng.random(50) < 0.4).astype(float), rng.random(50)
    assert expected_calibration_error(right, confidence) == pytest.approx(
        reference.calibration_error(right.tolist(), confidence.tolist(), 10)
    )
    expected = reference.auc(confidence[right == 1].tolist(), confidence[right == 0].tolist())
    assert area_under_curve(right, confidence) == pytest.approx(expected)
    assert area_under_curve(np.ones(5), np.ones(5)) is None


def test_symptoms_of_a_student_that_is_sure_of_everything() -> None:
    told = answers([1.0] * 50 + [0.0] * 50, [0.9] * 100)
    recoveries = {
        "teacher": Recoveries(np.ones(30), np.zeros(30), np.zeros(30)),
        "student": Recoveries(np.zeros(30), np.ones(30), np.zeros(30)),
    }
    diagnosis = found(evidence(draw(1), draw(2), answers={"student": told}, recoveries=recoveries), symptoms=True)
    assert diagnosis["confidence_when_wrong"].value == pytest.approx(0.9) and diagnosis["confidence_when_wrong"].estimate.n == 50
    assert diagnosis["calibration_error"].value == pytest.approx(0.4)
    assert diagnosis["brier"].value == pytest.approx((0.01 + 0.81) / 2)
    assert diagnosis["confidence_auroc"].value == 0.5
    assert diagnosis["lost_recovery"].value == 1 and diagnosis["lost_track"].value == 1
    assert diagnosis["lost_recovery"].severity == "clear"


def test_few_answers_of_either_kind_tell_nothing_of_confidence() -> None:
    """One wrong answer, however confident, is no symptom; nor is what chance alone makes of few answers."""
    one_wrong = found(evidence(draw(1), draw(2), answers={"student": answers([1.0] * 199 + [0.0], [0.8] * 199 + [0.9])}), symptoms=True)
    assert one_wrong["confidence_auroc"].value is None and "10 of each" in str(one_wrong["confidence_auroc"].estimate.reason)
    few = found(evidence(draw(1), draw(2), answers={"student": answers([1.0, 0.0] * 40, [0.5] * 80)}), symptoms=True)
    assert few["calibration_error"].value is None and "100 are needed" in str(few["calibration_error"].estimate.reason)


def test_a_calibrated_student_has_no_clear_calibration_error() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        confidence = rng.uniform(0.1, 0.9, 100)
        right = (rng.uniform(size=100) < confidence).astype(float)
        error = found(evidence(draw(1), draw(2), answers={"student": answers(right.tolist(), confidence.tolist())}), symptoms=True)
        estimate = error["calibration_error"].estimate
        assert estimate.low <= estimate.value <= estimate.high and error["calibration_error"].severity != "clear"


def test_no_difference_at_all_is_not_known_without_error() -> None:
    same = paired_change([1.0] * 20, [1.0] * 20)
    assert same.value == 0 and same.low == pytest.approx(-same.high) and same.high > 0.1
    assert paired_change([1.0], [1.0], least=2).value is None


def test_answers_cut_off_have_no_confidence_and_are_counted_as_skipped() -> None:
    told = answers([1.0] * 30 + [0.0] * 30, [0.9] * 50 + [math.nan] * 10)
    diagnosis = found(evidence(draw(1), draw(2), answers={"student": told}), symptoms=True)
    assert diagnosis["brier"].estimate.n == 50 and diagnosis["brier"].estimate.n_skipped == 10
    assert diagnosis["lost_recovery"].value is None and diagnosis["lost_recovery"].estimate.reason


def test_a_ratio_of_sums_has_the_linearised_interval_and_says_when_it_has_none() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 2.0, 4.0, 8.0])
    got, value = ratio_of_sums(a, b), 11 / 16
    error = math.sqrt(4 / 3 * sum((x - value * y) ** 2 for x, y in zip(a, b, strict=True))) / 16
    assert got.value == pytest.approx(value) and got.high == pytest.approx(value + 3.182446 * error)
    assert mean([2.0]).low is None
    assert ratio_of_sums([1.0], [0.0]).value is None
    assert mean([math.inf, 1.0]).value is None


@pytest.mark.parametrize(
    ("side", "value", "low", "high", "severity"),
    [
        ("above", 0.6, 0.55, 0.65, "clear"),
        ("above", 0.6, 0.45, 0.75, "possible"),
        ("above", 0.5, 0.5, 0.6, "none"),
        ("below", 0.4, 0.3, 0.45, "clear"),
        ("below", 0.4, 0.3, 0.6, "possible"),
        ("above", 0.6, None, None, "possible"),
        ("above", None, None, None, "unknown"),
    ],
)
def test_severity_reads_the_interval_against_the_threshold(
    side: Any, value: float | None, low: float | None, high: float | None, severity: str
) -> None:
    rule = Rule("trap", "name", "title", 0.5, side, "own", "remedy")
    assert rule.found(Estimate(value, low, high, reason="why"), str).severity == severity


def test_findings_print_and_never_run_what_models_said() -> None:
    hostile = [TracePair("<script>", row, -1.0, -2.0, -1.0, -1.0) for row in range(20)]
    diagnosis = Diagnosis("<b>teacher</b>", "s", "task", find(evidence(draw(1), draw(2), pairs=hostile), symptoms=False))
    assert "<b>" not in diagnosis._repr_html_() and "remedy" in str(diagnosis)
    assert [finding.severity for finding in diagnosis.by_severity] == sorted(
        (finding.severity for finding in diagnosis), key=["clear", "possible", "unknown", "none"].index
    )


def test_every_measure_has_its_own_name_a_remedy_and_a_threshold_with_a_source_or_is_shown_only() -> None:
    rules = [finding.rule for finding in found(evidence(draw(1), draw(2)), symptoms=True)]
    assert len({rule.name for rule in rules}) == len(rules) == len(TRAPS) + len(SYMPTOMS)
    assert all(rule.source and rule.remedy for rule in rules)
    assert all((rule.threshold is None) == rule.source.startswith("shown only") for rule in rules)


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("", "end"),
        (" ", "space"),
        ("Ġthe", "function word"),
        (" The", "function word"),
        (",", "punctuation"),
        ("7", "number"),
        ("▁walk", "word"),
    ],
)
def test_kinds_of_tokens(token: str, kind: str) -> None:
    assert token_class(token) == kind
