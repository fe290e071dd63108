"""Operations, bytes moved and calls of what models do: a forward pass, a backward pass, decoding, an optimiser step.

Counted as this package does it: the head at completion positions only, a prompt read once for its group, whole attention squares. Constants
are counts over the modules of transformers' Llama and over `inference/decoder.py`, one read or write of a float32 being 4 bytes.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from distillability.models.shape import ModelShape
from distillability.planning.hardware import Hardware

__all__ = ["Work", "backward", "decode", "forward", "optimiser_step", "project"]

# In units of the smallest operation's cost, Python between operations included: a forward pass through a layer, a layer of our decoder, the
# optimiser's work on a tensor, a trainer's step without any of these.
_CALLS_A_LAYER = {"float32": 150, "bfloat16": 260}
_CALLS_A_DECODED_LAYER = 40
_OPTIMISER_CALLS = 12
_TRAINER_CALLS = 2500
_OPTIMISER_BYTES = 44  # a weight: gradient, both moments and weight read, three written; its norm; clearing it
_LOSS_BYTES = 24  # a logit: written, read and written by softmax, read by the loss
_FEW_ROWS = 64  # up to which a product is slow for its size
_NARROW = 2  # products of few rows read weights at about half the bandwidth of elementwise operations
_FUSING_BYTES = 20  # a matrix weight of the decoder's copy: read, permuted, joined, scaled, converted


@dataclass(frozen=True)
class Work:
    """flops: of large matrix products; narrow: of those of few rows; moved: bytes; calls: operations started; tokens: that pass through."""

    flops: float = 0.0
    narrow: float = 0.0
    moved: float = 0.0
    calls: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(amount * times for amount in astuple(self)))

    def seconds(self, hardware: Hardware, dtype: str) -> float:
        """Of one device."""
        return hardware.seconds(self.flops, self.narrow, self.moved, self.calls, dtype)

    @property
    def operations(self) -> float:
        """Floating-point operations of all products."""
        return self.flops + self.narrow


def forward(
    shape: ModelShape, *, rows: float, length: float, positions: float, hardware: Hardware, dtype: str, passes: float = 1.0
) -> Work:
    """One pass over `rows` texts of `length` tokens, logits at `positions` of them in all, cut into so many passes."""
    tokens, layers = rows * length, shape.num_hidden_layers
    body = Work(
        flops=2 * tokens * shape.layer_matrices + 4 * layers * shape.query_width * tokens * length,
        moved=tokens * layers * _elementwise(shape, length, hardware, dtype) + passes * _read(shape.layer_matrices, dtype),
        calls=passes * layers * _CALLS_A_LAYER[dtype],
        tokens=tokens,
    )
    return body + project(shape, positions=positions, dtype=dtype, passes=passes)


def project(shape: ModelShape, *, positions: float, dtype: str, passes: float = 1.0) -> Work:
    """Logits of hidden states at `positions` in all, and what a loss reads and writes of them."""
    return Work(flops=2 * positions * shape.head, moved=positions * shape.vocab_size * _LOSS_BYTES + passes * _read(shape.head, dtype))


def _read(weights: float, dtype: str) -> float:
    """Bytes of weights in float32 that a product reads; autocast reads them, writes half as much and reads that."""
    return weights * (8 if dtype == "bfloat16" else 4)


def _elementwise(shape: ModelShape, length: float, hardware: Hardware, dtype: str) -> float:
    """Bytes a token and layer: norms and residuals, rotations and copies of queries and keys, the gate; scores where nothing is fused."""
    widths = 26 * shape.hidden_size + 16 * shape.query_width + 10 * shape.kv_width + 5 * shape.intermediate_size
    scores = 0 if hardware.is_accelerator else 8 * shape.num_attention_heads * length
    # Autocast reads float32 and writes half as much: the inputs of seven products, and what two of them give back.
    cast = 7 * shape.hidden_size + shape.query_width + shape.intermediate_size if dtype == "bfloat16" else 0
    return 4 * (widths + scores) + 6 * cast


def backward(of: Work, *, whole: bool = True) -> Work:
    """The backward pass of a forward one; without the weights' own gradients where only an adapter learns (`whole` off)."""
    return replace(of * 2, flops=of.flops * (2 if whole else 1), tokens=0.0)


def optimiser_step(shape: ModelShape, n_trained: float) -> Work:
    """AdamW in float32 with the gradient's norm, and what a trainer does around a step."""
    tensors = 9 * shape.num_hidden_layers + 2
    return Work(moved=n_trained * _OPTIMISER_BYTES, calls=tensors * _OPTIMISER_CALLS + _TRAINER_CALLS)


def decode(
    shape: ModelShape, *, prompts: float, rows: float, prompt: float, new: float, hardware: Hardware, dtype: str, batch: float
) -> Work:
    """`rows` completions of `new` tokens for distinct prompts of `prompt` tokens, at most `batch` at once; the copy of the weights too."""
    batches, item = max(1.0, rows / batch), 2 if dtype == "bfloat16" else 4
    layers, weights, steps = shape.num_hidden_layers, shape.layer_matrices + shape.head, batches * new
    read = forward(shape, rows=prompts, length=prompt, positions=prompts, hardware=hardware, dtype=dtype, passes=batches)
    context = prompt + new / 2
    flops = rows * new * (2 * weights + 4 * layers * shape.query_width * context)
    cache = item * rows * new * shape.cache(1) * context
    small = rows * new * (layers * _elementwise(shape, 0, hardware, "float32") / 2 + 8 * 4 * shape.vocab_size)
    moved = steps * item * weights * _NARROW + cache + small
    few = min(rows, batch) <= _FEW_ROWS
    written = Work(
        flops=0.0 if few else flops,
        narrow=flops if few else 0.0,
        moved=moved,
        calls=steps * layers * _CALLS_A_DECODED_LAYER,
        tokens=rows * new,
    )
    return read + written + Work(moved=_FUSING_BYTES * shape.layer_matrices)
