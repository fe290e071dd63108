"""Likelihood of a text: each model's own template and tokenizer, nothing lost, nothing that depends on the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from distillability.errors import UserError
from distillability.inference.likelihood import Scorer
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.load import LoadedModel, load_model
from distillability.tasks import Maths
from tiny import tiny_model

TASK = Maths()
PROMPTS = TASK.prompts("query", 12)
TEXTS = [TASK.render(prompt, mode) for prompt, mode in zip(PROMPTS, 3 * ["easy", "remark_hard", "hard", "easy"], strict=True)]  # type: ignore[arg-type]
ASKED = [prompt.text for prompt in PROMPTS]
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}


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
        assert score.logprob == pytest.approx(_naive(loaded, prompt, text), rel=1e-5)
        assert score.n_tokens == len(completion_ids(loaded.tokenizer, text))
        assert score.n_bytes == score.n_characters == len(text)


@pytest.mark.parametrize("tokens", [64, 200, 100_000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_batching_changes_nothing(tiny: dict[str, Path], tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    loaded = load_model(tiny["teacher"])
    loaded.model.to(dtype)
    alone = Scorer(loaded.model, loaded.tokenizer, max_tokens_per_batch=1).score(ASKED, TEXTS)
    found = Scorer(loaded.model, loaded.tokenizer, max_tokens_per_batch=tokens).score(ASKED, TEXTS)
    for a, b in zip(alone, found, strict=True):
        assert a is not None
        assert b is not None
        assert a.logprob == pytest.approx(b.logprob, rel=tolerance)
        assert a.n_tokens == b.n_tokens


def test_batches_hold_what_they_may_and_lose_nothing(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(tiny["teacher"])
    scorer = Scorer(loaded.model, loaded.tokenizer, max_tokens_per_batch=200)
    seen = []
    forward = scorer._forward
    monkeypatch.setattr(scorer, "_forward", lambda batch: (seen.append([item.length for item in batch]), forward(batch))[1])
    scorer.score(ASKED, TEXTS)
    lengths = [length for batch in seen for length in batch]
    assert len(seen) > 1
    assert all(max(batch) * len(batch) <= 200 or len(batch) == 1 for batch in seen)
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == len(TEXTS)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64),
        OPTConfig(hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8),
        Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=1.0),
        CohereConfig(**SHAPE, logit_scale=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_architectures_that_reshape_their_logits_are_scored_as_they_answer(config: PreTrainedConfig) -> None:
    """Gemma 2 caps its logits and Cohere scales them after the head: a head applied by hand would give other likelihoods."""
    tokenizer = character_tokenizer("abc")
    config.vocab_size, config.pad_token_id, config.eos_token_id = len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id
    config.bos_token_id = config.eos_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    loaded = LoadedModel(model, tokenizer, "none")
    for text, score in zip(("ab", "cabba", "c"), Scorer(model, tokenizer).score(["a", "bb", "c"], ["ab", "cabba", "c"]), strict=True):
        assert score is not None
        prompt = {"ab": "a", "cabba": "bb", "c": "c"}[text]
        assert score.logprob == pytest.approx(_naive(loaded, prompt, text), rel=1e-5)


def test_truncated_empty_and_foreign_texts_have_no_score(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    texts = [TEXTS[0], "", "no such characters", TEXTS[0]]
    found = Scorer(loaded.model, loaded.tokenizer).score([ASKED[0]] * 4, texts, [True, False, False, False])
    assert found[:3] == [None, None, None]
    assert found[3] is not None


def _lossy_tokenizer() -> PreTrainedTokenizerBase:
    """Words, spaces thrown away: "ab cd" comes back unchanged, "ab  cd" does not."""
    words = {"<pad>": 0, "<end>": 1, "<unk>": 2, "ab": 3, "cd": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    return fast


def test_a_text_that_does_not_survive_the_tokenizer_has_no_score(tmp_path: Path) -> None:
    tokenizer = _lossy_tokenizer()
    loaded = load_model(tiny_model(tmp_path, tokenizer, seed=4))
    texts = ["ab cd", "ab  cd", "ab cd ", "ab xy", "cd"]
    found = Scorer(loaded.model, tokenizer).score(["ab"] * 5, texts)
    assert [score is None for score in found] == [False, True, True, True, False]
    assert found[0] is not None
    assert (found[0].n_tokens, found[0].n_bytes) == (2, 5)
    assert found[0].logprob == pytest.approx(_naive(LoadedModel(loaded.model, tokenizer, "none"), "ab", "ab cd"), rel=1e-5)


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
    loaded.model.train()
    loaded.model.model.layers[0].eval()
    Scorer(loaded.model, loaded.tokenizer).score(ASKED[:1], TEXTS[:1])
    assert loaded.model.training
    assert not loaded.model.model.layers[0].training


def test_autocast_changes_the_forward_pass_and_little_else(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    (exact,) = Scorer(loaded.model, loaded.tokenizer).score(ASKED[:1], TEXTS[:1])
    (rough,) = Scorer(loaded.model, loaded.tokenizer, autocast_dtype=torch.bfloat16).score(ASKED[:1], TEXTS[:1])
    assert exact is not None
    assert rough is not None
    assert rough.logprob != exact.logprob
    assert rough.logprob == pytest.approx(exact.logprob, rel=0.02)


def test_a_broken_model_is_an_error_and_not_a_missing_score(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="log-likelihood"):
        Scorer(loaded.model, loaded.tokenizer).score(ASKED[:1], TEXTS[:1])


def test_a_text_longer_than_the_context_is_an_error(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    with pytest.raises(UserError, match="context holds 256"):
        Scorer(loaded.model, loaded.tokenizer).score(ASKED[:1], ["1" * 300])


def test_nothing_to_score(tiny: dict[str, Path]) -> None:
    loaded = load_model(tiny["teacher"])
    assert Scorer(loaded.model, loaded.tokenizer).score([], []) == []
    assert Scorer(loaded.model, loaded.tokenizer).score(["1"], [""]) == [None]
