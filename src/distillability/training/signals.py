"""What a teacher says at every position of its traces, recorded once and read by every logits objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from distillability.files import new_file
from distillability.models.batch import right_padded
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.head import has_plain_head, states_and_head
from distillability.models.load import LoadedModel
from distillability.ops.projection import projected
from distillability.types import Trace

__all__ = ["Example", "RecordedSignals", "encode_trace", "record_signals", "worth_recording"]

# Recorded log-probabilities over a whole vocabulary are worth their memory only while they are small.
_LARGEST_RECORD_BYTES = 1 << 30
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


def worth_recording(teacher: LoadedModel, traces: Sequence[Trace]) -> bool:
    """Whether half-precision log-probabilities of all positions are small enough to record; else the teacher is asked at every step."""
    n_tokens = sum(len(encode_trace(teacher, trace).completion) for trace in traces)
    return 2 * n_tokens * teacher.model.config.get_text_config().vocab_size <= _LARGEST_RECORD_BYTES


@dataclass(frozen=True)
class RecordedSignals:
    """Teacher log-probabilities at the positions that predict each trace's completion.

    logprobs: [N, V] half precision, all traces one after another; offsets: [n_traces + 1], row i holds offsets[i]:offsets[i + 1].
    """

    logprobs: torch.Tensor
    offsets: torch.Tensor

    def rows(self, index: int) -> torch.Tensor:
        """Log-probabilities [completion length, V] of one trace."""
        return self.logprobs[self.offsets[index] : self.offsets[index + 1]]

    def first(self, n_traces: int) -> RecordedSignals:
        """The signals of the first `n_traces` traces."""
        return RecordedSignals(self.logprobs[: self.offsets[n_traces]], self.offsets[: n_traces + 1])

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all."""
        with new_file(path) as temporary:
            save_file({"logprobs": self.logprobs, "offsets": self.offsets}, str(temporary))

    @classmethod
    def load(cls, path: Path) -> RecordedSignals:
        tensors = load_file(str(path))
        return cls(tensors["logprobs"], tensors["offsets"])


@torch.inference_mode()
def record_signals(
    teacher: LoadedModel, traces: Sequence[Trace], *, batch_size: int = 128, autocast_dtype: torch.dtype | None = None
) -> RecordedSignals:
    """Forward the teacher once over its traces; beside the record, only a chunk of logits exists at any time.

    Returns half-precision log-probabilities; the rounding is below 1e-3 nats for every token of more than e⁻⁸ mass.
    """
    examples = [encode_trace(teacher, trace) for trace in traces]
    lengths = torch.tensor([0] + [len(example.completion) for example in examples])
    offsets = lengths.cumsum(0)
    logprobs = torch.empty(int(offsets[-1]), teacher.model.config.get_text_config().vocab_size, dtype=torch.half)
    plain_head = bool(examples) and has_plain_head(teacher.model, examples[0].ids[:8])
    rows_at_once = batch_size if plain_head else min(batch_size, _WHOLE_LOGITS_ROWS)
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].ids))
    for begin in range(0, len(order), rows_at_once):
        rows = order[begin : begin + rows_at_once]
        places = torch.cat([torch.arange(int(offsets[row]), int(offsets[row + 1])) for row in rows])
        inputs, _ = right_padded([examples[row] for row in rows], teacher.tokenizer, teacher.device)
        with torch.autocast(teacher.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            states, head = states_and_head(teacher.model, plain_head=plain_head, **inputs)
            for part, logits in projected(states, head):
                logprobs[places[part]] = logits.float().log_softmax(-1).half().cpu()
    return RecordedSignals(logprobs, offsets)
