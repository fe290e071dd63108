"""Of eight texts the one is kept that the source asks for, from the models' own likelihoods."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distillability.config.recipe import Calibrate
from distillability.config.sources import parse_source
from distillability.inference.likelihood import Scorer
from distillability.models.load import load_model
from distillability.stages.traces import _select
from distillability.tasks import Maths
from distillability.training.teacher_signals import encode_trace
from distillability.types import Trace

TASK = Maths()
PROMPTS = TASK.prompts("query", 3)
DRAWN = [
    Trace(prompt.id, prompt.text, text)
    for prompt in PROMPTS
    for text in [*(TASK.render(prompt, mode) for mode in TASK.modes), TASK.gold_answer(prompt), "#0", "1+1=2", ""]
]


@pytest.fixture
def context(tiny: dict[str, Path]) -> Any:
    return SimpleNamespace(
        recipe=SimpleNamespace(calibrate=Calibrate()),
        config=SimpleNamespace(all_proxies=[tiny["proxy"]]),
        plain=lambda: load_model(tiny["teacher"]),
        load=load_model,
        scorer=lambda loaded: Scorer(loaded.model, loaded.tokenizer),
    )


@torch.no_grad()
def _logprob(folder: Path, trace: Trace) -> float:
    loaded = load_model(folder)
    example = encode_trace(loaded, trace)
    logprobs = loaded.model(torch.tensor([example.ids])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[len(example.prompt) - 1 + place, token]) for place, token in enumerate(example.completion))


@pytest.mark.parametrize("name", ["plain_best_of_8", "plain_worst_of_8", "undistillable_likeliest_of_8"])
def test_the_kept_text_is_the_extreme_one(tiny: dict[str, Path], context: Any, name: str) -> None:
    source = parse_source(name, {"undistillable"})
    assert source is not None and source.draws == 8 == len(DRAWN) // len(PROMPTS)

    def value(trace: Trace) -> float:
        if not trace.text:
            return -math.inf
        n_bytes, found = len(trace.text.encode()), _logprob(tiny["proxy"], trace)
        if name == "undistillable_likeliest_of_8":
            return found / n_bytes
        return (found - _logprob(tiny["teacher"], trace)) / n_bytes * (-1 if source.select == "worst" else 1)

    expected = [max(DRAWN[start : start + 8], key=value) for start in range(0, len(DRAWN), 8)]
    assert _select(context, source, DRAWN) == expected


def test_a_thief_does_not_have_the_original_teacher(context: Any) -> None:
    context.plain = None
    source = parse_source("plain_likeliest_of_8", ())
    assert source is not None and len(_select(context, source, DRAWN)) == len(PROMPTS)
