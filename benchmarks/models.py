"""Random models for benchmarks: ordinary Llamas of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

__all__ = ["Size", "random_llama"]


@dataclass(frozen=True)
class Size:
    """A Llama's measures."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int


def random_llama(
    tokenizer: PreTrainedTokenizerBase, size: Size, *, intermediate: int | None = None, seed: int = 0, tie_word_embeddings: bool = True
) -> LlamaForCausalLM:
    """A Llama with random weights and the tokenizer's special tokens.

    Args:
        intermediate: width of the feed-forward layers; three times the hidden one where None.
    """
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=intermediate or 3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)
