"""Likelihood of a text: each model's own template and tokenizer, nothing lost, nothing that depends on the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from distillability.lab.tokenizers import character_tokenizer
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.load import LoadedModel, load_model
from distillability.scoring.likelihood import Scorer
from distillability.tasks import Maths

TASK = Maths()
PROMPTS = TASK.prompts("query", 12)
TEXTS = [TASK.render(prompt, mode) for prompt, mode in zip(PROMPTS, 3 * ["easy", "remark_hard", "hard", "easy"], strict=True)]  # type: ignore[arg-type]
ASKED = [prompt.text for prompt in PROMPTS]


def _naive(loaded: LoadedModel, prompt: str, text: str) -> float:
    """One sequence, one token at a time, in float64 sums."""
    ids = prompt_ids(loaded.tokenizer, prompt)
    total = 0.0
    for token in [*completion_ids(loaded.tokenizer, text), end_of_turn_id(loaded.tokenizer)]:
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([ids])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    return total


@pytest.mark.parametrize("name", ["teacher", "proxy"])
def test_scores_are_sums_over_the_models_own_tokens(tiny: dict[str, Path], name: str) -> None:
    loaded = load_model(tiny[name])
    for text, prompt, score in zip(TEXTS, ASKED, Scorer(loaded.model, loaded.tokenizer).score(ASKED, TEXTS), strict=True):
        if score is None:
            assert name == "proxy"
            continue
        assert score.logprob == pytest.approx(_naive(loaded, prompt, text), abs=1e-4)
        assert score.n_tokens == len(completion_ids(loaded.tokenizer, text))
        assert score.n_bytes == score.n_characters == len(text)


@pytest.mark.parametrize("tokens", [1, 64, 200, 100_000])
def test_batching_changes_nothing(tiny: dict[str, Path], tokens: int) -> None:
    loaded = load_model(tiny["teacher"])
    alone = Scorer(loaded.model, loaded.tokenizer, max_tokens_per_batch=1).score(ASKED, TEXTS)
    found = Scorer(loaded.model, loaded.tokenizer, max_tokens_per_batch=tokens).score(ASKED, TEXTS)
    for a, b in zip(alone, found, strict=True):
        assert a is not None
        assert b is not None
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_truncated_empty_and_foreign_texts_have_no_score(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    texts = [TEXTS[0], "", "no such characters", TEXTS[0]]
    found = Scorer(loaded.model, loaded.tokenizer).score([ASKED[0]] * 4, texts, [True, False, False, False])
    assert found[:3] == [None, None, None]
    assert found[3] is not None


def test_bytes_are_not_characters(tmp_path: Path) -> None:
    loaded = load_model(tiny_model(tmp_path, character_tokenizer("aé€"), seed=0))
    (score,) = Scorer(loaded.model, loaded.tokenizer).score(["a"], ["é€a"])
    assert score is not None
    assert (score.n_tokens, score.n_characters, score.n_bytes) == (3, 3, 6)


def test_the_end_of_turn_counts_in_the_likelihood_and_not_in_the_length(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    (score,) = Scorer(loaded.model, loaded.tokenizer).score(ASKED[:1], ["#7"])
    assert score is not None
    assert score.n_tokens == 2
    with torch.inference_mode():
        ids = torch.tensor([prompt_ids(loaded.tokenizer, ASKED[0]) + completion_ids(loaded.tokenizer, "#7")])
        last = loaded.model(ids).logits[0, -1].log_softmax(-1)[end_of_turn_id(loaded.tokenizer)]
    without_end = _naive(loaded, ASKED[0], "#7") - float(last)
    assert score.logprob == pytest.approx(without_end + float(last), abs=1e-4)
    assert abs(float(last)) > 1e-3


def test_scoring_leaves_the_model_in_its_mode(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    for training in (True, False):
        loaded.model.train(training)
        Scorer(loaded.model, loaded.tokenizer).score(ASKED[:1], TEXTS[:1])
        assert loaded.model.training is training
