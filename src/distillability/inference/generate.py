"""Completions of prompts: by our decoder where it knows the architecture, by transformers' `generate` where it does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distillability.budgets import DECODED_AT_ONCE
from distillability.errors import UserError
from distillability.inference.decoder import Decoder
from distillability.models.batch import context_length
from distillability.models.chat import completion_ids, end_of_turn_id, rendered_once
from distillability.models.eval_mode import eval_mode
from distillability.models.fused import is_narrow, unsupported
from distillability.models.load import LoadedModel
from distillability.ops.sharding import gathered, is_sharded, most_anywhere
from distillability.types import Decoding

__all__ = ["Completions", "complete", "complete_ids", "decoding_dtype", "read_completions"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completions:
    """In the order of the prompts, `samples` of each prompt side by side.

    ids: the new tokens without the end of turn; texts: what they say, after the prefill where there was one; truncated: whether the length
    limit came before the end of turn.
    """

    ids: list[list[int]]
    texts: list[str]
    truncated: list[bool]

    @property
    def n_tokens(self) -> int:
        """New tokens in all, ends of turn included."""
        return sum(map(len, self.ids)) + len(self.ids) - sum(self.truncated)


def complete(
    loaded: LoadedModel,
    prompts: Sequence[str],
    *,
    decoding: Decoding,
    max_new_tokens: int,
    seed: int,
    samples: int = 1,
    prefills: Sequence[str] | None = None,
    demonstrations: Sequence[tuple[str, str]] = (),
    temperature: float = 1.0,
    batch_size: int = DECODED_AT_ONCE,
    autocast_dtype: torch.dtype | None = None,
) -> Completions:
    """Complete every prompt, greedily or by sampling from the whole distribution.

    Args:
        prefills: text that each answer starts with; it is part of the returned text.
        temperature: of the sampling.
        demonstrations: (prompt, answer) pairs shown as earlier turns.
        seed: of the sampling; equal seeds give equal texts whatever was drawn before.
        batch_size: completions that are decoded at once.
    """
    tokenizer = loaded.tokenizer
    starts = [prefill for prefill in prefills or [""] * len(prompts) for _ in range(samples)]
    asked = [prompt for prompt in prompts for _ in range(samples)]
    rendered = rendered_once(tokenizer, asked, demonstrations)
    encoded = [ids + completion_ids(tokenizer, start) for ids, start in zip(rendered, starts, strict=True)]
    rows = complete_ids(
        loaded,
        encoded,
        decoding=decoding,
        max_new_tokens=max_new_tokens,
        seed=seed,
        temperature=temperature,
        batch_size=batch_size,
        autocast_dtype=autocast_dtype,
    )
    said = read_completions(tokenizer, rows)
    return replace(said, texts=[_continued(tokenizer, *parts) for parts in zip(starts, said.texts, said.ids, strict=True)])


def _continued(tokenizer: PreTrainedTokenizerBase, start: str, text: str, ids: list[int]) -> str:
    """A prefill and what follows it, read together: by itself a text may lose the space that it begins with."""
    if not start:
        return text
    whole = tokenizer.decode(completion_ids(tokenizer, start) + ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return whole if whole.startswith(start) else start + text


def read_completions(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> Completions:
    """What rows of new token ids say; a row without its end of turn was cut off."""
    end = end_of_turn_id(tokenizer)
    kept = [ids[: ids.index(end)] if end in ids else ids for ids in rows]
    texts = tokenizer.batch_decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Completions(kept, texts, [end not in ids for ids in rows])


def complete_ids(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    max_new_tokens: int,
    seed: int | None = None,
    temperature: float = 1.0,
    batch_size: int = DECODED_AT_ONCE,
    autocast_dtype: torch.dtype | None = None,
) -> list[list[int]]:
    """The new token ids of each prompt, its end of turn included where it came.

    Args:
        seed: of a generator for this call alone; None draws from torch's global one.

    With our decoder a row's tokens depend on the generator and the row's place among `prompts`, not on the batch it falls in.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[] if loaded.device.type == "cpu" else [loaded.device]):
            torch.manual_seed(seed)
            return complete_ids(
                loaded,
                prompts,
                decoding=decoding,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                batch_size=batch_size,
                autocast_dtype=autocast_dtype,
            )
    model, end = loaded.model, end_of_turn_id(loaded.tokenizer)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    found: list[list[int]] = [[] for _ in prompts]
    longest = max(map(len, prompts), default=0) + max_new_tokens
    _require_room(loaded, longest, max_new_tokens)
    reason = unsupported(model, longest)
    if reason is not None:
        _say_fallback(reason)
    decoder = None if reason is not None else Decoder(model, decoding_dtype(loaded, autocast_dtype))
    uniforms = torch.rand(len(prompts), max_new_tokens) if decoder is not None and decoding == "sampled" else None
    n_batches = -(-len(order) // batch_size)
    if is_sharded(model):
        n_batches = most_anywhere(n_batches, loaded.device)
    for begin in range(0, n_batches * batch_size, batch_size):
        rows = order[begin : begin + batch_size]
        batch = [prompts[row] for row in rows] or [[end]]  # with nothing left to say, where other processes have something
        if decoder is not None:
            draws = None if uniforms is None else uniforms[rows]
            texts, _ = decoder.decode(batch, max_new_tokens=max_new_tokens, end_ids=[end], uniforms=draws, temperature=temperature)
        else:
            texts = _generate(loaded, batch, decoding, max_new_tokens, temperature, autocast_dtype)
        for row, ids in zip(rows, texts[: len(rows)], strict=True):
            found[row] = ids
    return found


def _require_room(loaded: LoadedModel, longest: int, max_new_tokens: int) -> None:
    context = context_length(loaded.model)
    if context is not None and longest > context:
        raise UserError.single(
            loaded.reference,
            f"a prompt of {longest - max_new_tokens} tokens with its template and {max_new_tokens} new ones exceed its context, {context}",
            "shorten the prompts or max_completion_length, or use a model with a longer context",
        )


def decoding_dtype(loaded: LoadedModel, autocast_dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of our decoder's products where the model's other passes autocast to `autocast_dtype` (None for float32)."""
    # Conversions cost a step of a narrow model more than half-sized products save.
    pays = loaded.device.type != "cpu" or not is_narrow(loaded.model)
    return autocast_dtype if autocast_dtype is not None and pays else torch.float32


@cache
def _say_fallback(reason: str) -> None:
    _log.warning("decoding with transformers' generate, which is slower: no decoder of ours for %s", reason)


@contextmanager
def _own_settings_alone(model: PreTrainedModel) -> Iterator[None]:
    """Without the settings that a model was published with, such as a penalty for repetition: they change what is sampled from."""
    published, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = published


@torch.no_grad()  # not in inference mode: divided parameters are gathered into ordinary tensors
def _generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    max_new_tokens: int,
    temperature: float,
    autocast_dtype: torch.dtype | None,
) -> list[list[int]]:
    """New token ids of each row, its end of turn included where it came."""
    batch = loaded.tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, padding_side="left", return_tensors="pt")
    batch = batch.to(loaded.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if decoding == "sampled" else {"do_sample": False}
    autocast = torch.autocast(loaded.device.type, autocast_dtype, enabled=autocast_dtype is not None)
    with eval_mode(loaded.model), _own_settings_alone(loaded.model), autocast:
        generate = partial(
            loaded.model.generate,
            **batch,
            max_new_tokens=max_new_tokens,
            eos_token_id=end_of_turn_id(loaded.tokenizer),
            pad_token_id=loaded.tokenizer.pad_token_id,
            synced_gpus=is_sharded(loaded.model),  # whose texts have ended goes on until all processes' have
            **sampling,
        )
        output = gathered(loaded.model, generate)
    end = end_of_turn_id(loaded.tokenizer)
    rows: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in rows]  # what follows it is padding
