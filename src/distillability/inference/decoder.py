"""A decoder for Llama-like models: what `generate` gives, token for token, in a fraction of its time.

Where the time goes: at one new token a row a step is a handful of small products, and most of `generate` is the bookkeeping around them.
So here weights are fused once (`models/fused.py`), keys and values are written into a buffer of fixed size, texts that are equal so far
(all completions of a prompt are at first) are computed once and part where they differ, finished texts are dropped, and a token is drawn
by inverting the cumulative distribution.

Whoever asks for a model that cannot be fused falls back to transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from distillability.inference.sampling import choose_tokens
from distillability.models.fused import FusedModel

__all__ = ["Decoder"]

_DROP_AT = 0.8  # finished texts are dropped once at most this share is unfinished: each time costs a copy of keys and values


class Decoder:
    """Decodes with a copy of a model's weights, as old as the last `refresh`.

    Args:
        model: a causal language model for which `models.fused.unsupported` has nothing to say; it is read, never changed.
        dtype: of the products; float32 or bfloat16. Residual stream, norms and probabilities are float32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32):
        self.model = FusedModel(model, dtype)
        self.device = self.model.device

    def refresh(self) -> None:
        """Read the model's weights again, after an update of them."""
        self.model.refresh()

    @torch.inference_mode()
    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        end_ids: Sequence[int],
        uniforms: torch.Tensor | None = None,
        temperature: float = 1.0,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Complete every prompt; what is equal so far is computed once.

        Args:
            prompts: token ids, none empty.
            end_ids: a row ends after the first of these.
            uniforms: [len(prompts), max_new_tokens] in [0, 1), the draws of each row; None decodes greedily. A row's tokens depend on its
                own draws alone, not on the rows beside it.

        Returns:
            the new ids of each prompt, the end id included where it came, and their log-probabilities at this temperature in nats.
        """
        unique = {prompt: index for index, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        ids, padding = _left_pad(list(unique), self.device)
        slot = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=self.device)  # of each live row
        state = _State(self.model, n_used=len(unique), capacity=len(prompts), n_slots=ids.shape[1] + max_new_tokens, padding=padding)
        ends = torch.tensor(list(end_ids), device=self.device)
        tokens = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(len(prompts), max_new_tokens, device=self.device)
        lengths = torch.full((len(prompts),), max_new_tokens, device=self.device)
        live = torch.arange(len(prompts), device=self.device)
        uniforms = None if uniforms is None else uniforms.to(self.device)
        for step in range(max_new_tokens):
            logits = self._forward(state, ids)[slot]
            draws = None if uniforms is None else uniforms[live, step]
            chosen, logprob = choose_tokens(logits, draws, temperature=temperature)
            tokens[live, step], logprobs[live, step] = chosen, logprob
            ended = torch.isin(chosen, ends)
            if ended.any():
                lengths[live[ended]] = step + 1
                live, slot, chosen = live[~ended], slot[~ended], chosen[~ended]
                if len(live) == 0:
                    break
            slot, ids = state.follow(slot, chosen)
        counts = lengths.tolist()
        rows_of_ids = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
        return rows_of_ids, [row[:count] for row, count in zip(logprobs.tolist(), counts, strict=True)]

    def _forward(self, state: _State, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] float32 after the last of the new tokens `ids` [B, T]; keys and values go into the state."""
        new, heads = ids.shape[1], self.model.n_kv_heads
        end, bias = state.filled + new, state.attention_bias(new)

        def attend(index: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            rows, _, n_heads, _ = queries.shape
            shared = n_heads // heads
            keys, values = state.write(index, keys, values, end)
            queries = queries.reshape(rows, new, heads, shared, -1).permute(0, 2, 3, 1, 4).reshape(rows * heads, shared * new, -1)
            scores = torch.bmm(queries, keys.transpose(1, 2))
            if bias is not None:
                scores = (scores.view(rows, heads, shared, new, end) + bias).view(scores.shape)
            context = torch.bmm(scores.softmax(-1, dtype=torch.float32).to(values.dtype), values)
            return context.view(rows, heads, shared, new, -1).permute(0, 3, 1, 2, 4).reshape(rows, new, -1)

        x = self.model.hidden(ids, state.positions(new), end, attend)
        state.filled = end
        return self.model.logits(x[:, -1])


class _State:
    """Keys and values of every text that is being written: the leaves of a tree whose root is the prompt.

    A slot belongs to a text, not to a row: rows that have drawn the same tokens so far share it, and part where their tokens do. Slots
    0 … n_used are in use, each [Hkv, n_slots, D] in every layer.
    """

    def __init__(self, model: FusedModel, *, n_used: int, capacity: int, n_slots: int, padding: torch.Tensor | None):
        self.filled, self.n_used, self.n_slots = 0, n_used, n_slots
        self.n_kv_heads, self.device = model.n_kv_heads, model.device
        self.parted = False  # whether every live row has a slot of its own; texts that differ never meet again
        self.padding = padding  # [n_used], None where no prompt has any
        shape = capacity, model.n_kv_heads, n_slots, model.head_dim
        self.keys = [torch.empty(shape, dtype=model.dtype, device=self.device) for _ in model.layers]
        self.values = [torch.empty(shape, dtype=model.dtype, device=self.device) for _ in model.layers]

    def follow(self, slot: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each live row goes on after its chosen token, [R], and the token that each slot reads next, [n_used, 1]."""
        if self.parted:
            if len(slot) <= _DROP_AT * self.n_used:
                self._keep(slot, capacity=len(slot))
                slot = torch.arange(len(slot), device=self.device)
            return slot, self._next_ids(slot, chosen)
        by_slot = (slot << 32) + chosen
        texts, text_of_row = torch.unique(by_slot, return_inverse=True)  # sorted, so that the texts of one slot lie side by side
        parent, token = texts >> 32, texts & 0xFFFFFFFF
        stays = torch.ones_like(parent, dtype=torch.bool)
        stays[1:] = parent[1:] != parent[:-1]
        n_live = int(stays.sum())
        if n_live <= _DROP_AT * self.n_used:
            self._keep(parent[stays], capacity=len(slot))
            parent = stays.cumsum(0) - 1
        moved = self._branch(parent[~stays])
        place = parent.masked_scatter(~stays, moved)
        self.parted = len(texts) == len(slot)
        return place[text_of_row], self._next_ids(place, token)

    def _next_ids(self, place: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """[n_used, 1]: what each slot reads next; anything where nobody reads."""
        ids = torch.zeros(self.n_used, 1, dtype=torch.long, device=self.device)
        ids[place, 0] = token
        return ids

    def _keep(self, slots: torch.Tensor, capacity: int) -> None:
        """Go on with these slots alone, in this order."""
        for buffers in (self.keys, self.values):
            for index, buffer in enumerate(buffers):
                kept = buffer.new_empty(capacity, *buffer.shape[1:])
                kept[: len(slots), :, : self.filled] = buffer[slots, :, : self.filled]
                buffers[index] = kept
        self.n_used = len(slots)
        if self.padding is not None:
            self.padding = self.padding[slots]

    def _branch(self, parents: torch.Tensor) -> torch.Tensor:
        """New slots that hold what their parents hold; returns their numbers."""
        if len(parents) == 0:
            return parents
        new = slice(self.n_used, self.n_used + len(parents))
        for buffer in (*self.keys, *self.values):
            buffer[new, :, : self.filled] = buffer[parents, :, : self.filled]
        self.n_used = new.stop
        if self.padding is not None:
            self.padding = torch.cat([self.padding, self.padding[parents]])
        return torch.arange(new.start, new.stop, device=self.device)

    def write(self, index: int, keys: torch.Tensor, values: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new [B, T, Hkv, D]; returns all so far, [B · Hkv, end, D]."""
        found = []
        for buffer, new in ((self.keys[index], keys), (self.values[index], values)):
            buffer[: self.n_used, :, self.filled : end] = new.transpose(1, 2)
            found.append(buffer[: self.n_used].view(-1, *buffer.shape[2:])[:, :end])
        return found[0], found[1]

    def positions(self, new: int) -> Any:
        """Index into a table of positions that gives [B or 1, T, 1, D/2]: slots less the row's padding."""
        slots = torch.arange(self.filled, self.filled + new, device=self.device)
        if self.padding is None:
            return slots[None, :, None]
        return (slots[None] - self.padding[:, None]).clamp(min=0)[:, :, None]

    def attention_bias(self, new: int) -> torch.Tensor | None:
        """[B or 1, 1, 1, T, end], 0 where a new position may look and −∞ where it may not; None where it may look everywhere."""
        end = self.filled + new
        slots = torch.arange(end, device=self.device)
        hidden = slots[None, None] > slots[self.filled :][None, :, None] if new > 1 else None
        if self.padding is not None:
            padded = (slots[None] < self.padding[:, None])[:, None]
            # A padding position looks at itself: a row of nothing but −∞ would turn into nan.
            padded = padded & (slots[None, None] != slots[self.filled :][None, :, None])
            hidden = padded if hidden is None else hidden | padded
        if hidden is None:
            return None
        return torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, -torch.inf)[:, None, None]


def _left_pad(prompts: list[tuple[int, ...]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ids [B, width], and how much padding each row has [B], None where none has any. What stands in the padding is never looked at."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * missing + list(prompt) for missing, prompt in zip(padding, prompts, strict=True)], device=device)
    return ids, torch.tensor(padding, device=device) if any(padding) else None
