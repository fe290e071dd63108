"""Log-likelihood of a text under a model with that model's own chat template and tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillability.budgets import SCORER_TOKENS
from distillability.errors import UserError
from distillability.models.batch import context_length, right_padded
from distillability.models.chat import end_of_turn_id, rendered_once, round_trip_ids
from distillability.models.eval_mode import eval_mode
from distillability.models.head import has_plain_head, states_and_head
from distillability.ops.logprobs import chosen_logprobs
from distillability.ops.sharding import gathered, is_sharded, most_anywhere

__all__ = ["Likelihood", "Scorer"]

_WHOLE_LOGITS_TOKENS = 1024  # padded tokens at once where the model's logits cannot be had position by position


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
    """Scores texts with one causal language model, in batches of like lengths.

    Args:
        model: any Hugging Face causal language model; it is left in the mode (training or evaluation) it was found in. Where its parameters
            are divided over processes, all processes score, each as many texts as it has.
        wrapper: what `model` is part of and was divided as a whole; None where that is `model`.
        max_tokens_per_batch: padded tokens forwarded at once.
        autocast_dtype: of the forward pass, None for the model's own; log-probabilities are computed in float32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        wrapper: torch.nn.Module | None = None,
        max_tokens_per_batch: int = SCORER_TOKENS,
        autocast_dtype: torch.dtype | None = None,
    ):
        self.model, self.wrapper = model, wrapper or model
        self.tokenizer = tokenizer
        self.max_tokens_per_batch = max_tokens_per_batch
        self.autocast_dtype = autocast_dtype
        self._plain_head = bool(gathered(self.wrapper, lambda: torch.tensor(has_plain_head(model))))

    def score(self, prompts: Sequence[str], texts: Sequence[str], truncated: Sequence[bool] | None = None) -> list[Likelihood | None]:
        """Likelihood of each text as the answer to its prompt, in the order given.

        None where there is nothing to score: a truncated or empty text, or one that this tokenizer does not give back unchanged.

        Raises:
            UserError: a text and its prompt are longer than the model's context, or a likelihood is not finite.
        """
        cut = truncated if truncated is not None else [False] * len(texts)
        encoded = self._encode(prompts, texts, cut)
        too_long = self._too_long(encoded)  # raised only after what all processes do together
        batches = [] if too_long else list(self._batches(encoded))
        logprobs = self._forward_all(batches)
        if too_long:
            raise too_long
        found: list[Likelihood | None] = [None] * len(texts)
        for item, logprob in zip((item for batch in batches for item in batch), logprobs, strict=True):
            text = texts[item.row]
            self._require_finite(logprob, text)
            found[item.row] = Likelihood(logprob, len(item.completion) - 1, len(text.encode()), len(text))
        return found

    def _encode(self, prompts: Sequence[str], texts: Sequence[str], cut: Sequence[bool]) -> list[_Encoded]:
        """What can be scored."""
        asked, kept = [], {}
        for row, (prompt, text, is_cut) in enumerate(zip(prompts, texts, cut, strict=True)):
            ids = None if is_cut or not text else round_trip_ids(self.tokenizer, text)
            if ids is not None:
                asked.append(prompt)
                kept[row] = [*ids, end_of_turn_id(self.tokenizer)]
        rendered = rendered_once(self.tokenizer, asked)
        return [_Encoded(row, prompt, ids) for (row, ids), prompt in zip(kept.items(), rendered, strict=True)]

    def _too_long(self, encoded: Sequence[_Encoded]) -> UserError | None:
        context = context_length(self.model)
        longest = max((item.length for item in encoded), default=0)
        if context is None or longest <= context:
            return None
        return UserError.single(
            str(self.model.name_or_path),
            f"a prompt with its text takes {longest} tokens, and the model's context holds {context}",
            "use shorter texts, or a model with a longer context",
        )

    def _require_finite(self, logprob: float, text: str) -> None:
        """A broken forward pass must not look like a text that could not be scored."""
        if not math.isfinite(logprob):
            raise UserError.single(
                str(self.model.name_or_path),
                f"its log-likelihood of the text {text[:60]!r} is {logprob}",
                "score in float32, and check the model's weights",
            )

    def _batches(self, encoded: Sequence[_Encoded]) -> Iterator[list[_Encoded]]:
        """Longest first, so that a batch that does not fit in memory fails at once."""
        limit = self.max_tokens_per_batch if self._plain_head else min(self.max_tokens_per_batch, _WHOLE_LOGITS_TOKENS)
        batch: list[_Encoded] = []
        for item in sorted(encoded, key=lambda item: -item.length):
            if batch and batch[0].length * (len(batch) + 1) > limit:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _forward_all(self, batches: Sequence[Sequence[_Encoded]]) -> list[float]:
        """Σ log P of each completion, batch after batch; in every process as many passes as in that which has most."""
        n_passes = most_anywhere(len(batches), self.model.device) if is_sharded(self.wrapper) else len(batches)
        found: list[float] = []
        with eval_mode(self.wrapper), torch.no_grad():
            for index in range(n_passes):
                batch = batches[index] if index < len(batches) else [_Encoded(row=-1, prompt=[0], completion=[0])]
                sums = gathered(self.wrapper, partial(self._forward, batch))
                found += sums.tolist() if index < len(batches) else []
        return found

    def _forward(self, batch: Sequence[_Encoded]) -> torch.Tensor:
        """Σ log P of each completion, [B] float64."""
        device = self.model.device
        inputs, targets = right_padded(batch, self.tokenizer, device)
        with torch.autocast(device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            states, head = states_and_head(self.model, plain_head=self._plain_head, **inputs)
            logprobs = chosen_logprobs(states, head, targets)
        rows, found = inputs["rows"].cpu(), logprobs.cpu().double()  # not every accelerator has float64
        return torch.zeros(len(batch), dtype=torch.float64).index_add_(0, rows, found)
