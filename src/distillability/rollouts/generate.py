"""Completions of prompts by transformers' `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.load import LoadedModel
from distillability.types import Decoding

__all__ = ["Completions", "complete"]


@dataclass(frozen=True)
class Completions:
    """Texts in the order of the prompts, `samples` of each prompt side by side, and whether each hit the length limit."""

    texts: list[str]
    truncated: list[bool]


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
    batch_size: int = 500,
    autocast_dtype: torch.dtype | None = None,
) -> Completions:
    """Complete every prompt, greedily or by sampling at temperature 1 from the whole distribution.

    Args:
        prefills: text that each answer starts with; it is part of the returned text.
        demonstrations: (prompt, answer) pairs shown as earlier turns.
        seed: of the sampling; equal seeds give equal texts whatever was drawn before.

    Prompts are batched by length; a text's tokens depend on the seed and on the batch it falls in.
    """
    tokenizer = loaded.tokenizer
    starts = [prefill for prefill in prefills or [""] * len(prompts) for _ in range(samples)]
    encoded = [
        prompt_ids(tokenizer, prompt, demonstrations) + completion_ids(tokenizer, start)
        for prompt, start in zip((prompt for prompt in prompts for _ in range(samples)), starts, strict=True)
    ]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    texts, truncated = [""] * len(encoded), [False] * len(encoded)
    devices = [] if loaded.device.type == "cpu" else [loaded.device]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            for row, ids in zip(
                rows, _generate(loaded, [encoded[row] for row in rows], decoding, max_new_tokens, autocast_dtype), strict=True
            ):
                finished = end_of_turn_id(tokenizer) in ids
                kept = ids[: ids.index(end_of_turn_id(tokenizer))] if finished else ids
                texts[row] = starts[row] + tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                truncated[row] = not finished
    return Completions(texts, truncated)


@torch.inference_mode()
def _generate(
    loaded: LoadedModel, prompts: list[list[int]], decoding: Decoding, max_new_tokens: int, autocast_dtype: torch.dtype | None
) -> list[list[int]]:
    """New token ids of each row, end of turn and what follows it included."""
    batch = loaded.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(loaded.device)
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if decoding == "sampled" else {"do_sample": False}
    with torch.autocast(loaded.device.type, autocast_dtype, enabled=autocast_dtype is not None):
        output = loaded.model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            eos_token_id=end_of_turn_id(loaded.tokenizer),
            pad_token_id=loaded.tokenizer.pad_token_id,
            **sampling,
        )
    rows: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return rows
