"""A reward model as a grader: any sequence-classification model of the Hugging Face form with one output."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from distillability.errors import UserError

__all__ = ["RewardModel"]


class RewardModel:
    """Scores an answer to a prompt; the model is loaded at the first score, once in a process.

    Args:
        path: a folder written by `save_pretrained`, or the id of a model in the local cache or on the hub.

    Raises:
        UserError: the folder is there and holds no sequence-classification model with one output.
    """

    def __init__(self, path: str):
        self.path = str(Path(path).expanduser()) if Path(path).expanduser().exists() else path
        _check(self.path)

    def __call__(self, prompt: str, text: str) -> float:
        """The score of `text` as the answer to `prompt`, by the model's own chat template where it has one, else as a pair of texts."""
        import torch

        model, tokenizer = _load(self.path)
        if tokenizer.chat_template is not None:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            rendered = tokenizer.apply_chat_template(messages, tokenize=False)
            encoded = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
        else:
            encoded = tokenizer(prompt, text, return_tensors="pt")
        with torch.inference_mode():
            encoded = encoded.to(model.device)
            return float(model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[0, 0])


def _check(path: str) -> None:
    """What can be known without loading anything."""
    if not Path(path).is_dir():
        if path.startswith((".", "/", "~")):
            raise UserError.single(path, "there is no such model folder", "give a folder written by save_pretrained")
        return
    file = Path(path) / "config.json"
    if not file.is_file():
        raise UserError.single(path, "the folder has no config.json", "give a folder written by save_pretrained")
    try:
        architectures = json.loads(file.read_text(encoding="utf-8")).get("architectures") or []
    except ValueError as error:
        raise UserError.single(str(file), f"not JSON ({error})", "save the reward model again") from error
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        kind = ", ".join(map(str, architectures)) or "of no named architecture"
        raise UserError.single(path, f"not a sequence-classification model ({kind})", "give a reward model")


@lru_cache(maxsize=2)
def _load(path: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model = AutoModelForSequenceClassification.from_pretrained(path, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError.single(path, f"cannot be loaded as a reward model: {error}", "give a sequence-classification model") from error
    if model.config.num_labels != 1:
        raise UserError.single(path, f"has {model.config.num_labels} outputs", "give a reward model with one")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(device or torch.device("cpu")).eval(), tokenizer
