"""The rules that stop a calibration, the loop detector, and who owns the advantage's variance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distillability.config.recipe import Calibrate
from distillability.ops.repetition import repeats
from distillability.rewards.compose import compose_advantage
from distillability.training.stops import (
    Watched,
    anchor_over_budget,
    entropy_collapsed,
    find_stop,
    length_ran_away,
    not_finite,
)

FIRST = {"step": 1, "entropy": 0.4, "bytes": 30.0, "anchor_nats": 0.0}


def _watched(settings: dict[str, Any] | None = None, **row: Any) -> Watched:
    return Watched(FIRST | {"step": 7} | row, FIRST, Calibrate.model_validate(settings or {}))


def test_a_quiet_step_stops_nothing() -> None:
    assert find_stop(_watched()) is None
    assert find_stop(_watched({"stops": {"entropy_share": 0.1}}, entropy=0.05, bytes=119.0, anchor_nats=3.0)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite(value: float) -> None:
    stop = not_finite(_watched(anchor_nats=value, bytes=value))
    assert stop is not None and stop.bad_from == 6
    assert "anchor_nats is" in stop.reason and "bytes is" in stop.reason and "after step 6" in stop.reason
    assert find_stop(_watched(anchor_nats=value)) is not None


@pytest.mark.parametrize(("anchor", "budget", "stops"), [(3.1, 3.0, True), (3.0, 3.0, False), (9.0, None, False), (None, 3.0, False)])
def test_the_anchors_budget(anchor: float | None, budget: float | None, stops: bool) -> None:
    stop = anchor_over_budget(_watched({"anchor_budget": budget}, anchor_nats=anchor))
    assert (stop is not None) == stops


@pytest.mark.parametrize(("entropy", "least", "stops"), [(0.03, 0.1, True), (0.05, 0.1, False), (0.0, None, False), (0.0, 0.1, True)])
def test_entropy_collapse(entropy: float, least: float | None, stops: bool) -> None:
    stop = entropy_collapsed(_watched({"stops": {"entropy_share": least}}, entropy=entropy))
    assert (stop is not None) == stops


@pytest.mark.parametrize(("n_bytes", "factor", "stops"), [(121.0, 4.0, True), (120.0, 4.0, False), (999.0, None, False), (5.0, 4.0, False)])
def test_length_that_runs_away(n_bytes: float, factor: float | None, stops: bool) -> None:
    stop = length_ran_away(_watched({"stops": {"length_factor": factor}}, bytes=n_bytes))
    assert (stop is not None) == stops


def test_nothing_to_compare_with_stops_nothing() -> None:
    settings = Calibrate.model_validate({"stops": {"entropy_share": 0.5}})
    first = FIRST | {"entropy": 0.0, "bytes": 0.0}
    assert find_stop(Watched(FIRST | {"step": 2}, first, settings)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("aaa", False),
        ("aaaaa", False),  # "aaaa" stands there twice
        ("aaaaaa", True),
        ("xyabcdabcdabcd", True),
        ("xyabcdabcd", False),
        ("abcdabcdabcdx", False),  # it got out of the loop
        (">1:7+3=0;2:0*9=0;3:0-8=2;#2", False),
        ("abcd, abcd and abcd", True),  # not next to each other
    ],
)
def test_a_text_that_goes_round_in_circles(text: str, expected: bool) -> None:
    assert repeats(text) is expected
    assert repeats([ord(letter) for letter in text]) is expected


def test_the_variance_owed_to_c() -> None:
    right = torch.tensor([[True, True, False, False], [True, True, True, True]])
    c = torch.tensor([[1.0, -1.0, 0.0, 0.0], [2.0, 0.0, -1.0, -1.0]], dtype=torch.float64)
    common: dict[str, Any] = {"right": right, "compatibility": c, "scale": 4.0}
    both = compose_advantage(task_reward=right.double(), knob=1.0, **common)
    share = both.metrics["compatibility_variance_share"]
    a, part = both.advantage.flatten(), both.calibration.flatten()
    covariance = ((a - a.mean()) * (part - part.mean())).mean() / a.var(correction=0)
    assert share == pytest.approx(float(covariance))
    assert compose_advantage(task_reward=right.double(), knob=0.0, **common).metrics["compatibility_variance_share"] == 0.0
    flat = {"right": right[1:], "compatibility": c[1:], "scale": 4.0}
    assert compose_advantage(task_reward=right[1:].double(), knob=1.0, **flat).metrics["compatibility_variance_share"] == pytest.approx(1)
    assert compose_advantage(task_reward=right[1:].double(), knob=0.0, **flat).metrics["compatibility_variance_share"] is None
