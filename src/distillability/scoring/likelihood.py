"""Log-likelihood of a text under a model with that model's own chat template and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillability.models.chat import (
    completion_ids,
    end_of_turn_id,
    prompt_ids,
    survives,
)
from distillability.ops.logprobs import chosen_logprobs

__all__ = ["Likelihood", "Scorer"]


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of one text.

    logprob: Σ log P in nats over the text's tokens and the end of turn. n_tokens: the text's tokens under this model's tokenizer,
    n_bytes and n_characters: the text's UTF-8 bytes and characters; the end of turn adds to none of the three.
    """

    logprob: float
    n_tokens: int
    n_bytes: int
    n_characters: int


@dataclass(frozen=True)
class _Encoded:
    row: int
    prompt: list[int]
    completion: list[int]  # with its end of turn

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


class Scorer:
    """Scores texts with one model, in batches of like lengths.

    Args:
        max_tokens_per_batch: padded tokens forwarded at once.
        autocast_dtype: of the forward pass; log-probabilities are computed in float32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens_per_batch: int = 16384,
        autocast_dtype: torch.dtype | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens_per_batch = max_tokens_per_batch
        self.autocast_dtype = autocast_dtype

    def score(self, prompts: Sequence[str], texts: Sequence[str], truncated: Sequence[bool] | None = None) -> list[Likelihood | None]:
        """Likelihood of each text as the answer to its prompt, in the order given.

        None where there is nothing to score: a truncated or empty text, or one that this tokenizer does not give back unchanged.
        """
        cut = truncated if truncated is not None else [False] * len(texts)
        encoded = [
            self._encode(row, prompt, text)
            for row, (prompt, text, is_cut) in enumerate(zip(prompts, texts, cut, strict=True))
            if text and not is_cut and survives(self.tokenizer, text)
        ]
        found: list[Likelihood | None] = [None] * len(texts)
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in self._batches(encoded):
                for item, logprob in zip(batch, self._forward(batch).tolist(), strict=True):
                    text = texts[item.row]
                    found[item.row] = Likelihood(logprob, len(item.completion) - 1, len(text.encode()), len(text))
        finally:
            self.model.train(was_training)
        return found

    def _encode(self, row: int, prompt: str, text: str) -> _Encoded:
        completion = [*completion_ids(self.tokenizer, text), end_of_turn_id(self.tokenizer)]
        return _Encoded(row, prompt_ids(self.tokenizer, prompt), completion)

    def _batches(self, encoded: Sequence[_Encoded]) -> Iterator[list[_Encoded]]:
        """Longest first, so that a batch that does not fit in memory fails at once."""
        batch: list[_Encoded] = []
        for item in sorted(encoded, key=lambda item: -item.length):
            if batch and batch[0].length * (len(batch) + 1) > self.max_tokens_per_batch:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    @torch.inference_mode()
    def _forward(self, batch: Sequence[_Encoded]) -> torch.Tensor:
        """Σ log P of each completion, [B]."""
        width, device = batch[0].length, self.model.device
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([item.prompt + item.completion + [pad] * (width - item.length) for item in batch], device=device)
        mask = torch.tensor([[1] * item.length + [0] * (width - item.length) for item in batch], device=device)
        rows = torch.tensor([row for row, item in enumerate(batch) for _ in item.completion], device=device)
        columns = torch.tensor([len(item.prompt) + i for item in batch for i in range(len(item.completion))], device=device)
        with torch.autocast(device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            hidden = self.model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            logprobs = chosen_logprobs(hidden[rows, columns - 1], self.model.get_output_embeddings(), ids[rows, columns])
        return torch.zeros(len(batch), dtype=torch.float64, device=device).index_add_(0, rows, logprobs.double())
