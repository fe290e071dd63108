"""Tiny random chat models of one architecture, and questions to ask them: what a paper-scale recipe is tried with before it costs anything.

    python scripts/tiny_models.py gemma3 [FOLDER]

writes FOLDER/{teacher,proxy,student} and FOLDER/questions.jsonl (FOLDER is `tiny` where not given), which recipes/paper/tiny.toml names.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from distillability.lab.tokenizers import character_tokenizer

ARCHITECTURES = {"gemma3": "gemma3_text", "llama": "llama", "qwen3": "qwen3"}
LAYERS = {"teacher": 3, "proxy": 1, "student": 2}
ALPHABET = "01+=?"  # so small that a random model ends its texts, and is right by chance


def write(architecture: str, folder: Path) -> None:
    """Three models and the questions."""
    tokenizer = character_tokenizer(ALPHABET)
    for seed, (role, layers) in enumerate(LAYERS.items()):
        config = CONFIG_MAPPING[ARCHITECTURES[architecture]](
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,  # the least that vLLM's attention on processors takes
            max_position_embeddings=128,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            initializer_range=0.1,
        )
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions()), encoding="utf-8")


def questions() -> list[dict[str, str]]:
    """Sums of eight bits, modulo two."""
    return [{"prompt": f"{'+'.join(bits)}=?", "answer": str(bits.count("1") % 2)} for bits in product("01", repeat=8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=list(ARCHITECTURES))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("tiny"))
    args = parser.parse_args()
    write(args.architecture, args.folder)
    print(f"{args.folder}: {', '.join(LAYERS)} ({args.architecture}), questions.jsonl")


if __name__ == "__main__":
    main()
