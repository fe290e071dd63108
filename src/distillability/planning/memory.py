"""Bytes on one device, part by part: what stays while a stage works, and what each of its phases adds."""

from __future__ import annotations

from dataclasses import dataclass, field

from distillability.budgets import SCORED_POSITIONS, chunk_bytes
from distillability.models.shape import ModelShape

__all__ = ["Memory", "inference_activations", "logits_chunk", "training_activations"]

_COPIES_OF_A_CHUNK = 4  # logits, probabilities of student and teacher, the gradient


@dataclass(frozen=True)
class Memory:
    """Parts in bytes of what stays and of phases that follow one another.

    Attributes:
        kept: a phase finds little use for what the one before it has freed, and both count; else the largest does. So it is on a processor,
            where the C library hands out pieces of one heap.
    """

    stays: dict[str, float] = field(default_factory=dict)
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    kept: bool = False

    @property
    def parts(self) -> dict[str, dict[str, float]]:
        """What stays, under `always`, and the phases."""
        return {"always": self.stays, **self.phases}

    @property
    def peak(self) -> float:
        phases = [sum(parts.values()) for parts in self.phases.values()]
        return sum(self.stays.values()) + (sum(phases) if self.kept else max(phases, default=0.0))


def training_activations(shape: ModelShape, *, rows: float, length: float, dtype: str, fused_attention: bool, checkpointing: bool) -> float:
    """What autograd keeps of a forward pass: each layer's norms, inputs of products and gate; scores where nothing is fused.

    With checkpointing, each layer's input, and all of this for one layer at a time.
    """
    tokens, half = rows * length, dtype == "bfloat16"
    item = 2 if half else 4
    norms = 2 * (8 + item) * shape.hidden_size
    products = 4 * item * (shape.query_width + shape.intermediate_size)
    scores = 0 if fused_attention else (6 if half else 4) * shape.num_attention_heads * length
    layer, layers = tokens * (norms + products + scores), shape.num_hidden_layers
    return layer + tokens * layers * 4 * shape.hidden_size if checkpointing else layer * layers


def inference_activations(shape: ModelShape, *, tokens: float, length: float, fused_attention: bool) -> float:
    """The widest moment of a forward pass without gradient: the gate's tensors or attention's, and the last hidden states."""
    scores = 0 if fused_attention else 3 * shape.num_attention_heads * length
    return 4 * tokens * (3 * shape.hidden_size + max(3 * shape.intermediate_size, 4 * shape.query_width + scores))


def logits_chunk(shape: ModelShape, *, accelerator: bool, scoring: bool = False) -> float:
    """Logits that exist at once and what is made of them, in training or in scoring texts."""
    if scoring:
        return 3 * 4 * SCORED_POSITIONS * shape.vocab_size
    return _COPIES_OF_A_CHUNK * chunk_bytes(accelerator=accelerator)
