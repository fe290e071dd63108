"""Loading a model and its tokenizer: the lab's, a local folder, a GGUF file, or a hub id."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed
from transformers.utils import logging as transformers_logging

from distillability.errors import UserError
from distillability.models.architectures import inner_architecture, inner_weight_names
from distillability.models.chat import TemplateVariables, with_end_of_turn, with_template
from distillability.models.convert import as_folder
from distillability.models.locate import adapted_model, has_tokenizer

transformers_logging.disable_progress_bar()  # our own lines say what is going on

__all__ = ["LoadedModel", "default_device", "initialise_student", "load_model", "load_tokenizer"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model with its tokenizer; `reference` is what the user called it, with code of its own if they allow that."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: str
    trust_remote_code: bool = False

    @property
    def device(self) -> torch.device:
        return self.model.device


def default_device() -> torch.device:
    """The accelerator where there is one, of several processes each its own, else the processor."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return torch.device("cpu")
    own = os.environ.get("LOCAL_RANK")  # before any process group is made, all would take the first
    return found if own is None else torch.device(found.type, int(own) % torch.accelerator.device_count())


def load_tokenizer(
    reference: str | Path,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: TemplateVariables | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left as generation needs it, with a pad token (end of sequence where it has none), which ends turns.

    An adapter saved without one has its model's.

    Args:
        chat_template, chat_template_kwargs: see `models.chat.with_template`.
    """
    path = as_folder(str(reference))
    base = None if has_tokenizer(Path(path)) else adapted_model(Path(path))
    if base is not None:
        return load_tokenizer(
            base, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs, trust_remote_code=trust_remote_code
        )
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return with_end_of_turn(with_template(tokenizer, chat_template, chat_template_kwargs))


def load_model(
    reference: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: TemplateVariables | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model for scoring, decoding or training; it comes in evaluation mode. An adapter is merged into its model.

    Of a model of several kinds of input its language model is loaded, by itself.

    Args:
        dtype: of the weights, `auto` for that of the files. Training and the lab keep float32 and may autocast.
        chat_template, chat_template_kwargs: see `models.chat.with_template`.

    Raises:
        UserError: there is no such model, or it is not a causal language model in safetensors.
    """
    try:
        model = _load_weights(as_folder(str(reference)), dtype, trust_remote_code)
        tokenizer = load_tokenizer(
            reference, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError.single(
            str(reference), f"cannot be loaded as a causal language model: {error}", "give a Hugging Face folder or id"
        ) from error
    return LoadedModel(model.to(device or default_device()).eval(), tokenizer, str(reference), trust_remote_code)


def _load_weights(path: str, dtype: torch.dtype | Literal["auto"], trust_remote_code: bool) -> PreTrainedModel:
    """A model, or the one that an adapter was trained on with the adapter added to its weights, known by the adapter's folder."""
    base = adapted_model(Path(path))
    if base is None:
        return _load_language_model(path, dtype, trust_remote_code)
    from peft import PeftModel, get_peft_model_state_dict

    adapted = PeftModel.from_pretrained(_load_weights(as_folder(base), dtype, trust_remote_code), path)
    file = Path(path) / "adapter_model.safetensors"
    if file.is_file():
        with safe_open(str(file), "pt") as weights:
            _require_all(set(get_peft_model_state_dict(adapted)) - set(weights.keys()))
    merged: PreTrainedModel = adapted.merge_and_unload()
    merged.config._name_or_path = merged.name_or_path = path
    return merged.requires_grad_(True)  # peft has frozen what the adapter does not change


def _load_language_model(path: str, dtype: torch.dtype | Literal["auto"], trust_remote_code: bool) -> PreTrainedModel:
    """A model, of one of several kinds of input its language model."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    names = inner_weight_names(config.model_type)
    inner = {} if names is None else {"config": _language_config(config), "key_mapping": names}
    model: PreTrainedModel
    with _undivided():
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=_attention(),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **inner,
        )
    _require_all(found["missing_keys"])
    if inner:
        vars(model).pop("_weight_conversions", None)  # else it would be saved under its names in the larger model
    return model


@contextmanager
def _undivided() -> Iterator[None]:
    """Whole models, also where a trainer of this process has had DeepSpeed divide its own: transformers then divides all that it makes."""
    known = deepspeed._hf_deepspeed_config_weak_ref
    config = None if known is None else known()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def _require_all(missing: Collection[str]) -> None:
    """A model with some weights left as they were drawn must not look like the one that was saved."""
    if missing:
        raise ValueError(f"its files lack {len(missing)} of its weights, {min(missing)} for one")


def _language_config(config: PreTrainedConfig) -> PreTrainedConfig:
    return config.text_config if inner_architecture(config.model_type) else config


def initialise_student(
    reference: str | Path,
    seed: int,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: TemplateVariables | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """A student with the architecture and tokenizer of `reference` and fresh weights drawn from `seed`."""
    path = as_folder(str(reference))
    base = adapted_model(Path(path))
    config = _language_config(AutoConfig.from_pretrained(as_folder(base) if base else path, trust_remote_code=trust_remote_code))
    with torch.random.fork_rng(devices=[]), _undivided():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=_attention(), trust_remote_code=trust_remote_code
        )
    tokenizer = load_tokenizer(
        reference, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs, trust_remote_code=trust_remote_code
    )
    return LoadedModel(model.to(default_device()).eval(), tokenizer, str(reference), trust_remote_code)


def _attention() -> str:
    # On processors the fused kernel is slower than plain matrix products at these lengths, and much slower in bfloat16.
    return "sdpa" if default_device().type != "cpu" else "eager"
