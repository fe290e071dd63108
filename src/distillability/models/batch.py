"""Texts as one model reads them, side by side in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Encoded", "context_length", "right_padded"]


class Encoded(Protocol):
    """A prompt's ids and its completion's."""

    @property
    def prompt(self) -> list[int]: ...

    @property
    def completion(self) -> list[int]: ...


def right_padded(
    texts: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What `models.head.states_and_head` asks for of a batch, and the tokens that are to be predicted.

    Returns:
        input_ids, attention_mask [B, T]; rows, columns [N] of the positions that predict a completion token, text after text; and those
        tokens [N].
    """
    ids = [text.prompt + text.completion for text in texts]
    longest, pad = max(map(len, ids)), tokenizer.pad_token_id or 0  # hidden by the mask and, being on the right, by causality
    where = [(row, len(text.prompt) - 1 + i) for row, text in enumerate(texts) for i in range(len(text.completion))]
    lists = {
        "input_ids": [row + [pad] * (longest - len(row)) for row in ids],
        "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in ids],
        "rows": [row for row, _ in where],
        "columns": [column for _, column in where],
    }
    inputs = {name: torch.tensor(values, device=device) for name, values in lists.items()}
    return inputs, inputs["input_ids"][inputs["rows"], inputs["columns"] + 1]


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens that a model reads at once; None where its configuration does not say."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit
