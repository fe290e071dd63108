"""What a teacher says at every position of its traces, recorded once and read by every logits objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from distillability.budgets import LARGEST_RECORD_BYTES
from distillability.files import new_file
from distillability.models.batch import right_padded
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.head import has_plain_head, states_and_head
from distillability.models.load import LoadedModel
from distillability.ops.projection import projected
from distillability.types import Trace

__all__ = ["Example", "RecordedSignals", "encode_trace", "record_signals"]

_WHOLE_LOGITS_ROWS = 8  # at once where the teacher's logits cannot be had position by position


@dataclass(frozen=True)
class Example:
    """One trace as token ids of the model that learns from it or speaks of it: the prompt, then the completion with its end of turn."""

    prompt: list[int]
    completion: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.completion


def encode_trace(loaded: LoadedModel, trace: Trace) -> Example:
    """Token ids of a trace under a model's own template and tokenizer."""
    tokenizer = loaded.tokenizer
    return Example(prompt_ids(tokenizer, trace.prompt), [*completion_ids(tokenizer, trace.text), end_of_turn_id(tokenizer)])


@dataclass(frozen=True)
class RecordedSignals:
    """What a teacher says at the positions that predict each trace's completion, all traces one after another.

    Either its log-probabilities or, where that takes less place, its last hidden states and the head that makes logits of them: with a
    vocabulary of 50,000 a state of 576 numbers is an eightieth, and says the same.

    Attributes:
        values: [N, V] log-probabilities in half precision, or [N, D] states.
        offsets: [n_traces + 1]; trace i has the rows offsets[i]:offsets[i + 1].
        weight, bias: [V, D] and [V] of the head; None where `values` are log-probabilities, or where the head has no bias.
    """

    values: torch.Tensor
    offsets: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def rows(self, index: int) -> torch.Tensor:
        """Values [completion length, V or D] of one trace."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def head(self) -> torch.nn.Module:
        """Makes logits [n, V] of values [n, V or D]."""
        if self.weight is None:
            return torch.nn.Identity()
        head = torch.nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, device="meta")
        head.weight = torch.nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            head.bias = torch.nn.Parameter(self.bias, requires_grad=False)
        return head

    def first(self, n_traces: int) -> RecordedSignals:
        """The signals of the first `n_traces` traces."""
        return replace(self, values=self.values[: self.offsets[n_traces]], offsets=self.offsets[: n_traces + 1])

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all."""
        with new_file(path) as temporary:
            save_file({name: tensor for name, tensor in vars(self).items() if tensor is not None}, str(temporary))

    @classmethod
    def load(cls, path: Path) -> RecordedSignals:
        return cls(**load_file(str(path)))


@torch.no_grad()
def record_signals(
    teacher: LoadedModel, traces: Sequence[Trace], *, batch_size: int = 128, autocast_dtype: torch.dtype | None = None
) -> RecordedSignals | None:
    """Forward the teacher once over its traces; beside the record, only a chunk of logits exists at any time.

    None where the record is too large to be kept in memory: the teacher is then asked at every step.

    Log-probabilities are rounded to half precision, below 1e-3 nats for every token of more than e⁻⁸ mass. States and head are kept in the
    dtype that their product has in a forward pass, so that the product of the record is that of the teacher.
    """
    examples = [encode_trace(teacher, trace) for trace in traces]
    lengths = torch.tensor([0] + [len(example.completion) for example in examples])
    offsets = lengths.cumsum(0)
    kept = _head_worth_keeping(teacher, examples, autocast_dtype)
    if _record_bytes(teacher, examples, kept, autocast_dtype) > LARGEST_RECORD_BYTES:
        return None
    width, dtype = (_vocabulary(teacher), torch.half) if kept is None else (kept.in_features, _computed_in(kept, autocast_dtype))
    values = torch.empty(int(offsets[-1]), width, dtype=dtype)
    plain_head = kept is not None or has_plain_head(teacher.model)
    rows_at_once = batch_size if plain_head else min(batch_size, _WHOLE_LOGITS_ROWS)
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].ids))
    for begin in range(0, len(order), rows_at_once):
        rows = order[begin : begin + rows_at_once]
        places = torch.cat([torch.arange(int(offsets[row]), int(offsets[row + 1])) for row in rows])
        inputs, _ = right_padded([examples[row] for row in rows], teacher.tokenizer, teacher.device)
        with torch.autocast(teacher.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            states, head = states_and_head(teacher.model, plain_head=plain_head, **inputs)
            if kept is not None:
                values[places] = states.to(dtype).cpu()
                continue
            for part, logits in projected(states, head):
                values[places[part]] = logits.float().log_softmax(-1).half().cpu()
    if kept is None:
        return RecordedSignals(values, offsets)
    weight, bias = (None if tensor is None else tensor.detach().to(dtype).cpu().clone() for tensor in (kept.weight, kept.bias))
    return RecordedSignals(values, offsets, weight, bias)


def _head_worth_keeping(teacher: LoadedModel, examples: Sequence[Example], autocast_dtype: torch.dtype | None) -> torch.nn.Linear | None:
    """The head, where nothing else makes logits of states, and it and they take less place than log-probabilities."""
    head = teacher.model.get_output_embeddings()
    if not examples or type(head) is not torch.nn.Linear:
        return None
    smaller = _record_bytes(teacher, examples, head, autocast_dtype) < _record_bytes(teacher, examples, None, autocast_dtype)
    return head if smaller and has_plain_head(teacher.model) else None


def _record_bytes(
    teacher: LoadedModel, examples: Sequence[Example], head: torch.nn.Linear | None, autocast_dtype: torch.dtype | None
) -> int:
    n_tokens = sum(len(example.completion) for example in examples)
    if head is None:
        return 2 * n_tokens * _vocabulary(teacher)
    return (n_tokens + head.out_features) * head.in_features * _computed_in(head, autocast_dtype).itemsize


def _computed_in(head: torch.nn.Linear, autocast_dtype: torch.dtype | None) -> torch.dtype:
    return autocast_dtype or head.weight.dtype


def _vocabulary(teacher: LoadedModel) -> int:
    size: int = teacher.model.config.get_text_config().vocab_size
    return size
