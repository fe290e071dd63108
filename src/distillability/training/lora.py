"""Calibrating an adapter in place of all weights: through peft, its settings under peft's names.

The original teacher is the model with its adapter off, so that no second copy of it is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillability.config.nearest import nearest
from distillability.config.recipe import Lora
from distillability.errors import Problem, UserError
from distillability.inference.likelihood import Likelihood, Scorer

__all__ = ["AdapterOffScorer", "adapter_config", "adapter_of", "adapter_state", "save_merged"]

ADAPTER_FILE = "adapter_model.safetensors"


class AdapterOffScorer(Scorer):
    """Scores with a model as it was before it got its adapter."""

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, **settings: Any):
        super().__init__(model.get_base_model(), tokenizer, wrapper=model, **settings)
        self._adapted = model

    def score(self, prompts: Sequence[str], texts: Sequence[str], truncated: Sequence[bool] | None = None) -> list[Likelihood | None]:
        """As of any scorer."""
        with self._adapted.disable_adapter():
            return super().score(prompts, texts, truncated)


def adapter_config(settings: Lora, model: PreTrainedModel) -> LoraConfig:
    """peft's configuration of the adapter.

    Raises:
        UserError: the model has no linear layer of a name that is asked for.
    """
    known = _linear_names(model)
    problems = []
    for name in settings.target_modules:
        if name not in known:
            guess = nearest(name, known)
            fix = f"did you mean {guess!r}? " if guess else ""
            what = f"{model.name_or_path} has no linear layers of the name {name!r}"
            problems.append(Problem("calibrate.lora.target_modules", what, f"{fix}it has {', '.join(known)}"))
    if problems:
        raise UserError(problems)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules) or known,
    )


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of the model's linear layers, the output head's left out."""
    head = model.get_output_embeddings()
    named = (name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head)
    return list(dict.fromkeys(named))


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights."""
    return {name: weight.detach().clone() for name, weight in get_peft_model_state_dict(model).items()}


def adapter_of(model: PeftModel, checkpoint: Path | None, first: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter of a checkpoint under the model's own names; `first`, that of before the first step, where there is none."""
    saved = first if checkpoint is None else load_file(checkpoint / ADAPTER_FILE)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return {name: saved[name.replace(f".{model.active_adapter}.", ".")] for name in trained}


def save_merged(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Add the adapter to the weights, for good, and save an ordinary model."""
    model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
