"""Tiny random models and tasks: real Hugging Face folders that answer nonsense in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerBase

from distillability.lab.tokenizers import byte_pair_tokenizer, character_tokenizer
from distillability.tasks.base import Task, split_of
from distillability.tasks.maths import Maths
from distillability.types import Grade, Prompt, Split

__all__ = ["Parity", "tiny_model", "tiny_models", "tiny_reward_model"]


class Parity(Task):
    """Right is an even number of characters: about half of what a random model says, so that groups are mixed."""

    name = "parity"
    chance = 0.5

    def stream(self, split: Split) -> Iterator[Prompt]:
        for number in range(100_000):
            if split_of(str(number)) == split:
                yield Prompt(id=str(number), text=str(number), answer="")

    def grade(self, prompt: Prompt, text: str) -> Grade:
        return Grade(right=len(text) % 2 == 0)


def tiny_model(folder: Path, tokenizer: PreTrainedTokenizerBase, *, seed: int, layers: int = 1, width: int = 16) -> Path:
    """A random Llama saved as an ordinary folder."""
    torch.manual_seed(seed)
    LlamaForCausalLM(_config(tokenizer, layers, width)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_reward_model(folder: Path, tokenizer: PreTrainedTokenizerBase, *, seed: int, outputs: int = 1) -> Path:
    """A random classifier of texts, one number each."""
    config = _config(tokenizer, layers=1, width=16)
    config.num_labels = outputs
    torch.manual_seed(seed)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(tokenizer: PreTrainedTokenizerBase, layers: int, width: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,
        attn_implementation="eager",
    )


def tiny_models(folder: Path) -> dict[str, Path]:
    """A teacher, a proxy with another tokenizer, and a student with the teacher's."""
    task = Maths()
    texts = [part for prompt in task.prompts("calibrate", 100) for part in (prompt.text, task.render(prompt, "remark_easy"))]
    return {
        "teacher": tiny_model(folder / "teacher", character_tokenizer(task.alphabet), seed=1, layers=2),
        "proxy": tiny_model(folder / "proxy", byte_pair_tokenizer(texts, 64), seed=2),
        "student": tiny_model(folder / "student", character_tokenizer(task.alphabet), seed=3),
    }
