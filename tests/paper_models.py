"""Configurations of the models that the paper-scale recipes name, as their makers publish them, and the weights these come to."""

from __future__ import annotations

from typing import Any

__all__ = ["MODELS", "hub_config"]

_GEMMA: dict[str, Any] = {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
_QWEN: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40_960,
    "rope_theta": 1_000_000,
}

# name -> (configuration of the language model, weights). What a file leaves out, the configuration's class fills in.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "google/gemma-3-12b-it": (
        _GEMMA
        | {
            "hidden_size": 3840,
            "intermediate_size": 15_360,
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
        },
        11_766_034_176,
    ),
    "google/gemma-3-4b-it": (_GEMMA | {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}, 3_880_263_168),
    "google/gemma-3-1b-it": (
        {
            "model_type": "gemma3_text",
            "architectures": ["Gemma3ForCausalLM"],
            "vocab_size": 262_144,
            "head_dim": 256,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "sliding_window": 512,
            "max_position_embeddings": 32_768,
        },
        999_885_952,
    ),
    "Qwen/Qwen3-8B": (
        _QWEN | {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32},
        8_190_735_360,
    ),
    "Qwen/Qwen3-1.7B": (
        _QWEN
        | {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
        1_720_574_976,
    ),
    "Qwen/Qwen3-0.6B": (
        _QWEN
        | {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    "meta-llama/Llama-3.2-1B-Instruct": (
        {
            "model_type": "llama",
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
            "max_position_embeddings": 131_072,
        },
        1_235_814_400,
    ),
}


def hub_config(name: str) -> dict[str, Any]:
    """`config.json` as the hub has it: the larger Gemmas keep their language model's inside that of a model which also sees."""
    config = MODELS[name][0]
    if config["model_type"] == "gemma3_text" and "architectures" not in config:
        return {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}
    return config
