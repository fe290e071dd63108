"""The table of architectures: an entry is all that a Llama-like model needs to be planned, cut and decoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from distillability.inference.decoder import Decoder
from distillability.models.architectures import ARCHITECTURES, Architecture, inner_architecture, inner_weight_names
from distillability.models.cut import keep_layers
from distillability.models.fused import unsupported
from distillability.models.shape import model_shape

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
# Not in the table, so that it is the entry alone which makes them known.
NEW = {
    "gemma": (Architecture({"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True}, offset_norms=True), {}),
    "seed_oss": (Architecture({"num_key_value_heads": 8, "head_dim": 128}, qkv_bias=True), {"attention_dropout": 0.0}),
}


def _model(name: str, **changes: Any) -> Any:
    """Random norms and biases too: fresh ones are all one and zero, which would hide a mistake."""
    config = CONFIG_MAPPING[name](**SIZES | {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3} | changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name or "bias" in parameter_name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", NEW)
def test_an_entry_is_all_that_a_llama_like_architecture_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, changes = NEW[name]
    model, prompt = _model(name, **changes), [3, 5, 8, 13]
    assert name not in ARCHITECTURES and "architecture" in str(unsupported(model, 20))
    monkeypatch.setitem(ARCHITECTURES, name, entry)
    assert unsupported(model, 20) is None
    ours, _ = Decoder(model).decode([prompt], max_new_tokens=12, end_ids=[0])
    theirs = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=0, pad_token_id=0)
    assert ours[0] == theirs[0, len(prompt) :].tolist()
    assert model_shape(name, model.config.to_dict()).n_weights == model.num_parameters()
    whole = CONFIG_MAPPING[name](**SIZES)  # what a file leaves out
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(whole)
    assert model_shape(name, SIZES | {"model_type": name}).n_weights == built.num_parameters()
    assert keep_layers(model, [1]).config.num_hidden_layers == 1


def test_a_language_model_inside_a_larger_one_is_found_by_the_larger_one_s_type() -> None:
    assert inner_architecture("gemma3") == "gemma3_text" and inner_weight_names("gemma3")
    for other in ("llama", "gemma3_text", "llava"):
        assert inner_architecture(other) is None and inner_weight_names(other) is None
