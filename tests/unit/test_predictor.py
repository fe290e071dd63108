"""The distillability score: its curve, what leaves it missing, and the advice that is made of several."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillability.diagnosis.evidence import Probed
from distillability.diagnosis.predictor import FITTED, Fit, forecast, no_forecast
from distillability.report.advice import advise

FIT = Fit(0.4, 1.5, {"seqkd": 0.0, "jsd": -2.0})


def probed(right: int, n: int = 200, truncated: int = 0) -> Probed:
    return Probed("proxy", 50, 480, np.repeat([1.0, 0.0], [right, n - right]), np.repeat([1.0, 0.0], [truncated, n - truncated]))


@pytest.mark.parametrize("right", [0, 1, 70, 199, 200])
def test_the_curve_against_its_formula(right: int) -> None:
    odds = (right + 0.5) / (200 - right + 0.5)
    for objective, offset in FIT.offsets.items():
        weight = math.exp(0.4 + 1.5 * math.log(odds) + offset)
        assert FIT.expected(right / 200, 200, objective) == pytest.approx(weight / (1 + weight), abs=1e-12)


def test_more_right_answers_are_never_a_lower_forecast() -> None:
    values = [forecast(probed(right), FIT).value for right in range(201)]
    assert all(value is not None for value in values) and values == sorted(values)  # type: ignore[type-var]
    assert len(set(values)) == 201


def test_the_shipped_curve_rises_too_and_knows_the_objectives_of_the_record() -> None:
    assert FITTED.slope > 0 and {"seqkd", "forward_kl", "reverse_kl", "jsd"} <= set(FITTED.offsets) and FITTED.offsets["seqkd"] == 0


def test_a_forecast_carries_its_interval_its_score_and_every_objective() -> None:
    found = forecast(probed(100), FIT)
    assert found.estimate.low is not None and found.value is not None and found.estimate.high is not None
    assert found.estimate.low < found.value < found.estimate.high and found.estimate.n == 200
    assert found.details["score"] == 0.5 and found.details["expected"] == {
        "seqkd": found.value,
        "jsd": pytest.approx(1 / (1 + math.exp(1.6))),
    }
    assert "50 steps" in found.sentence and "proxy" in found.sentence


def test_without_the_teacher_s_vocabulary_nothing_is_forecast_of_logits() -> None:
    assert forecast(probed(100), FIT, texts_alone=True).details["expected"].keys() == {"seqkd"}


def test_a_probe_that_does_not_end_its_answers_forecasts_nothing() -> None:
    found = forecast(probed(0, truncated=101))
    assert found.value is None and found.severity == "unknown"
    assert "give a proxy" in str(found.estimate.reason)
    assert forecast(probed(0, truncated=100)).value is not None


def test_no_answer_is_no_forecast() -> None:
    assert forecast(Probed("proxy", 50, 480, np.array([]), np.array([]))).value is None
    assert no_forecast("why").estimate.reason == "why"


def test_the_best_source_is_advised_and_logits_of_a_teacher_alone() -> None:
    expected = {"plain": {"seqkd": 0.5, "jsd": 0.6}, "best": {"seqkd": 0.8, "jsd": 0.95}}
    found = advise(expected, {"plain": 0.55, "best": 0.85}, ["plain"], "plain")
    assert found is not None and (found.source, found.objective, found.expected, found.against) == ("best", "seqkd", 0.8, 0.5)
    found = advise(expected, {"plain": 0.55, "best": 0.85}, ["plain", "best"], "plain")
    assert found is not None and (found.source, found.objective) == ("best", "jsd")


def test_what_is_no_better_than_the_plain_teachers_own_texts_is_not_advised() -> None:
    expected = {"plain": {"seqkd": 0.5, "jsd": 0.6}, "best": {"seqkd": 0.62}}
    found = advise(expected, {"plain": 0.63, "best": 0.7}, ["plain"], "plain")
    assert found is not None and (found.source, found.objective, found.expected) == ("plain", "jsd", 0.6)


def test_without_a_forecast_nothing_is_advised() -> None:
    assert advise({}, {}, ["plain"], "plain") is None
    found = advise({"best": {"seqkd": 0.4}}, {"best": 0.5}, [], "plain")
    assert found is not None and found.against is None
