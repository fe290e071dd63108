"""The architectures of the paper at their full size, without a weight in memory: what the package does with a model must know them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedModel

from command_line import ROOT
from distillability.config.load import load_recipe
from distillability.config.recipe import Lora
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.fused import unsupported
from distillability.models.head import states_and_head
from distillability.models.load import initialise_student, load_model
from distillability.models.shape import model_shape
from distillability.training.lora import adapter_config
from paper_models import MODELS, hub_config


def _on_meta(name: str) -> PreTrainedModel:
    config = dict(MODELS[name][0])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config.pop("model_type")](**config), attn_implementation="eager")
    assert isinstance(model, PreTrainedModel)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_counted_to_the_last(name: str) -> None:
    model, known = _on_meta(name), MODELS[name][1]
    assert sum(weight.numel() for weight in model.parameters()) == known
    assert model_shape(name, hub_config(name)).n_weights == known


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target_modules", [[], ["q_proj", "v_proj"]])
def test_an_adapter_reaches_every_matrix_and_no_more(name: str, target_modules: list[str]) -> None:
    model, shape = _on_meta(name), model_shape(name, hub_config(name))
    settings = Lora(r=32, target_modules=target_modules)
    with torch.device("meta"):
        adapted = get_peft_model(model, adapter_config(settings, model))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == shape.adapter_weights(32, target_modules)
    assert unsupported(adapted, 256) is None


@pytest.mark.parametrize("name", MODELS)
def test_the_decoder_knows_them_as_far_as_their_window(name: str) -> None:
    model = _on_meta(name)
    window = MODELS[name][0].get("sliding_window")
    assert unsupported(model, 512) is None
    reason = unsupported(model, 2048)
    assert (reason is None) if window is None else (reason is not None and "sliding window" in reason)


@pytest.mark.parametrize("name", MODELS)
def test_states_come_without_logits(name: str) -> None:
    model = _on_meta(name)
    ids, where = torch.zeros(2, 8, dtype=torch.long, device="meta"), torch.zeros(5, dtype=torch.long, device="meta")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "rows": where, "columns": where}
    with torch.inference_mode():
        states, head = states_and_head(model, plain_head=True, **inputs)
        shape = model_shape(name, hub_config(name))
        assert states.shape == (5, shape.hidden_size)
        assert head(states).shape == (5, shape.vocab_size)


def test_the_language_model_of_a_model_that_also_sees(tmp_path: Path) -> None:
    """It is loaded alone, gives the same logits, and is saved as an ordinary language model."""
    tokenizer = character_tokenizer("01+")
    text: dict[str, Any] = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 16, "bos_token_id": None}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=15)
    )
    whole.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    ids = torch.arange(10)[None]
    expected = whole.eval()(input_ids=ids).logits
    model = load_model(tmp_path / "whole").model
    assert type(model).__name__ == "Gemma3ForCausalLM"
    torch.testing.assert_close(model(input_ids=ids).logits, expected)  # of other attention kernels
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    assert type(again).__name__ == "Gemma3ForCausalLM"
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert type(initialise_student(tmp_path / "whole", 0).model).__name__ == "Gemma3ForCausalLM"


@pytest.mark.parametrize("name", ["gemma", "qwen"])
def test_the_recipes_name_models_that_are_known_here(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / "paper" / f"{name}.toml")
    assert {reference for task in recipe.tasks for reference in task.models.values()} <= set(MODELS)
    assert recipe.calibrate.lora is not None
    assert recipe.calibrate.per_device_train_batch_size is not None
    assert recipe.calibrate.per_device_train_batch_size % recipe.calibrate.num_generations == 0
