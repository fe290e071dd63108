"""The table of Llama-like architectures, without torch: what plans, cuts, the fused forward pass and the loader know of each.

Such a decoder has attention by q, k, v and o_proj, a gated feed-forward layer, RMS norms and rotary positions, under the names of
transformers' Llama. One that differs in nothing but the attributes below takes an entry here and no other change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ARCHITECTURES", "Architecture", "inner_architecture", "inner_weight_names"]


@dataclass(frozen=True)
class Architecture:
    """How one architecture differs from Llama.

    Attributes:
        defaults: keys of config.json that transformers fills in where a file leaves them out, but for Llama's own.
        qkv_bias: queries, keys and values have biases and the output has none, whatever `attention_bias` says.
        qk_norm: queries and keys are normed, head by head.
        norms_behind: attention and feed-forward layer have a norm behind them too.
        offset_norms: a norm multiplies by 1 + its weight.
        part_of: the `model_type` of models of several kinds of input whose language model it is.
        names_in_whole: what their files call the weights of the language model (regular expressions), and what it calls them by itself.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    qkv_bias: bool = False
    qk_norm: bool = False
    norms_behind: bool = False
    offset_norms: bool = False
    part_of: str | None = None
    names_in_whole: Mapping[str, str] = field(default_factory=dict)


# By `model_type`. None for key-value heads means as many as attention heads; for head_dim, hidden size over attention heads.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),
    "mistral": Architecture({"num_key_value_heads": 8}),
    "qwen2": Architecture({"num_key_value_heads": 32}, qkv_bias=True),
    "qwen3": Architecture({"num_key_value_heads": 32, "head_dim": 128}, qk_norm=True),
    "gemma3_text": Architecture(
        {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
        qk_norm=True,
        norms_behind=True,
        offset_norms=True,
        part_of="gemma3",
        names_in_whole={r"^language_model\.model\.": "model.", r"^language_model\.lm_head": "lm_head"},
    ),
}


def inner_architecture(model_type: str) -> str | None:
    """The `model_type` of the language model in a model of several kinds of input; None where the table has none."""
    return next((name for name, architecture in ARCHITECTURES.items() if architecture.part_of == model_type), None)


def inner_weight_names(model_type: str) -> dict[str, str] | None:
    """`names_in_whole` of that language model; None where the table has none."""
    name = inner_architecture(model_type)
    return None if name is None else dict(ARCHITECTURES[name].names_in_whole)
