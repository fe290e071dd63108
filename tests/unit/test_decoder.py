"""Our decoder says what `generate` says, token for token, and samples from the distribution that a forward pass gives."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from distillability.inference.decoder import Decoder
from distillability.inference.sampling import choose_tokens
from distillability.models.fused import unsupported
from distillability.models.head import states_and_head

VOCABULARY, ENDS = 97, (1, 7)
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.3,
    "attn_implementation": "eager",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama with biases": LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True),
    "llama, scaled positions, tied": LlamaConfig(**COMMON, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "mistral": MistralConfig(**COMMON, sliding_window=None),
    "qwen2, tied": Qwen2Config(**COMMON, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**COMMON, head_dim=16),
    "gemma3": Gemma3TextConfig(**COMMON, head_dim=16, query_pre_attn_scalar=24, sliding_window=128, sliding_window_pattern=2),
}


def _model(config: PretrainedConfig, seed: int = 0) -> Any:
    """Random weights, norms and biases included: fresh ones are all one and zero, which would hide a mistake."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def _prompts(n: int, longest: int = 25) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(2, VOCABULARY) for _ in range(rng.randint(1, longest))] for _ in range(n)]


def _generate(model: Any, prompts: list[list[int]], new: int) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=list(ENDS), pad_token_id=0
    )
    rows = output[:, width:].tolist()
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ENDS), len(row))] for row in rows]


def _logprobs(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).squeeze(1)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_is_generate_token_for_token(name: str) -> None:
    model, prompts = _model(CONFIGS[name]), _prompts(200)
    ours, logprobs = Decoder(model).decode(prompts, max_new_tokens=20, end_ids=ENDS)
    theirs = _generate(model, prompts, 20)
    assert ours == theirs
    assert any(len(row) < 20 for row in ours), "no row ended early, so nothing was dropped"
    for row in range(0, 200, 20):
        assert torch.allclose(torch.tensor(logprobs[row]), _logprobs(model, prompts[row], ours[row]), atol=1e-4)


def test_sampled_tokens_follow_the_distribution_of_a_forward_pass() -> None:
    """Every sequence of two tokens over a small vocabulary, chi-square against its exact probability."""
    config = LlamaConfig(**COMMON | {"vocab_size": 6, "initializer_range": 0.15})
    model, n = _model(config), 6000
    generator = torch.Generator().manual_seed(11)
    rows, _ = Decoder(model).decode([[3, 2]] * n, max_new_tokens=2, end_ids=[1], uniforms=torch.rand(n, 2, generator=generator))
    sequences = [(1,), *((a, b) for a, b in itertools.product(range(6), repeat=2) if a != 1)]
    expected = [n * _logprobs(model, [3, 2], list(sequence)).sum().exp().item() for sequence in sequences]
    counted = [sum(tuple(row) == sequence for row in rows) for sequence in sequences]
    assert sum(counted) == n
    assert stats.chisquare(counted, expected, sum_check=False).pvalue > 0.01


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    model, prompts = _model(CONFIGS["qwen3"]), [prompt for prompt in _prompts(12) for _ in range(4)]
    draws = torch.rand(len(prompts), 16, generator=torch.Generator().manual_seed(3))
    whole, logprobs = Decoder(model).decode(prompts, max_new_tokens=16, end_ids=ENDS, uniforms=draws)
    for row in (0, 1, 17, 47):
        alone, _ = Decoder(model).decode([prompts[row]], max_new_tokens=16, end_ids=ENDS, uniforms=draws[row : row + 1])
        assert alone[0] == whole[row]
        assert torch.allclose(torch.tensor(logprobs[row]), _logprobs(model, prompts[row], whole[row]), atol=1e-4)
    assert len({tuple(row) for row in whole[:4]}) > 1, "completions of one prompt never parted"


def test_adapters_take_part_and_refresh_reads_new_weights() -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model: Any = get_peft_model(_model(CONFIGS["llama with biases"]), lora).eval()
    prompts = _prompts(20)
    decoder = Decoder(model)
    adapted, _ = decoder.decode(prompts, max_new_tokens=12, end_ids=ENDS)
    assert adapted == _generate(model, prompts, 12)
    with model.disable_adapter():
        decoder.refresh()
        plain, _ = decoder.decode(prompts, max_new_tokens=12, end_ids=ENDS)
        assert plain == _generate(model, prompts, 12)
    assert plain != adapted


def test_half_precision_stays_near() -> None:
    model, prompts = _model(CONFIGS["llama, scaled positions, tied"]), _prompts(40)
    rows, logprobs = Decoder(model, torch.bfloat16).decode(
        prompts, max_new_tokens=12, end_ids=ENDS, uniforms=torch.rand(40, 12, generator=torch.Generator().manual_seed(0))
    )
    differences = [(torch.tensor(p) - _logprobs(model, prompt, row)).abs() for p, prompt, row in zip(logprobs, prompts, rows, strict=True)]
    assert torch.cat(differences).mean() < 0.2


@pytest.mark.parametrize("name", CONFIGS)
def test_states_without_gradient_are_those_of_the_library(name: str) -> None:
    """Right-padded texts of several lengths; with gradient the library's own forward pass runs, without it the fused one."""
    model, texts = _model(CONFIGS[name]), _prompts(30)
    width = max(map(len, texts))
    places = [(row, column) for row, text in enumerate(texts) for column in range(len(text))]
    rows, columns = torch.tensor(places).T
    asked = {
        "input_ids": torch.tensor([text + [0] * (width - len(text)) for text in texts]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts]),
    }
    theirs, head = states_and_head(model, plain_head=True, rows=rows, columns=columns, **asked)
    with torch.no_grad():
        ours, same_head = states_and_head(model, plain_head=True, rows=rows, columns=columns, **asked)
        with torch.autocast("cpu", torch.bfloat16):
            half, _ = states_and_head(model, plain_head=True, rows=rows, columns=columns, **asked)
    assert theirs.requires_grad
    assert not torch.equal(ours, theirs), "the fused model was not used"
    assert head is same_head
    assert torch.allclose(ours, theirs.detach(), atol=2e-5)
    assert 0 < (half - ours).abs().mean() < 0.05


def test_what_is_not_supported_is_named() -> None:
    assert unsupported(_model(CONFIGS["gemma3"]), 100) is None
    assert "sliding window" in str(unsupported(_model(CONFIGS["gemma3"]), 200))
    gpt = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20))
    assert "gpt2" in str(unsupported(gpt, 10))
    quantised = _model(CONFIGS["mistral"])
    quantised.model.layers[0].mlp.up_proj = torch.nn.Sequential(torch.nn.Linear(32, 48))
    assert "up_proj" in str(unsupported(quantised, 10))


@pytest.mark.parametrize("vocabulary", [50, 3000])
def test_the_inverse_cdf_is_exact_at_its_edges(vocabulary: int) -> None:
    """A draw of 0 gives the first token that has mass, a draw just below 1 the last; none without mass is ever drawn."""
    logits = torch.full((2, vocabulary), -torch.inf)
    logits[:, [3, vocabulary - 5]] = 0.0
    tokens, _ = choose_tokens(logits, torch.tensor([0.0, 1 - 2**-24]))
    assert tokens.tolist() == [3, vocabulary - 5]


def test_large_vocabularies_are_sampled_exactly() -> None:
    """Sums of blocks first, then inside a block: the same token as one running sum over everything, up to rounding at its edges."""
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(4000, 2000, generator=generator)
    uniforms = torch.rand(4000, generator=generator)
    running = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(running, uniforms.double()[:, None], right=True).squeeze(1)
    tokens, _ = choose_tokens(logits.clone(), uniforms)
    assert (tokens == expected).float().mean() > 0.998
