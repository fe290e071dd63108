"""Output projection and loss, chunk by chunk, with the gradient formed in the forward pass.

A loss over N positions of a vocabulary of V needs N × V logits and as many gradients. Here a chunk of positions is projected, its loss and
the gradient of its logits are computed, turned into the gradient of the hidden states and of the head, and forgotten. At most chunk × V
logits exist at once, each is computed once, and the backward pass only scales what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from distillability.budgets import accelerator_scaled, chunk_bytes
from distillability.ops.logprobs import upcast
from distillability.ops.sharding import is_sharded, most_anywhere

__all__ = ["ChunkLoss", "affordable", "computed_in", "projected", "projected_sum", "projector"]

# (logits [n, V] of some positions, which positions) → the sum of their losses, a scalar.
ChunkLoss = Callable[[torch.Tensor, slice], torch.Tensor]

_BLOCK = 1 << 11  # of the vocabulary, on a processor; what is made of as much of a weight stays in the cache until it is used


def projected_sum(hidden: torch.Tensor, head: torch.nn.Module, loss: ChunkLoss, *, chunk: int | None = None) -> torch.Tensor:
    """Σ loss(head(hidden)) over chunks of positions; the gradient reaches `hidden` and every trainable parameter of `head`.

    Args:
        hidden: [N, D], last hidden states at the positions that count, and only these.
        head: maps [n, D] to logits [n, V]: any module, a linear one fastest. `Identity` where `hidden` are logits already.
        loss: called once for every chunk, in order, with its logits and the slice of positions they belong to. Whatever it reads of other
            tensors it takes at that slice, and they get no gradient. To hand out values position by position it may write them, detached,
            into a buffer [N] of its caller at the same slice; it must not mind being called again for the same chunk, as happens where
            the head is sharded.
        chunk: positions at a time; None for as many as keep a chunk's logits within `budgets.chunk_bytes`.

    Returns:
        The sum, float32 (float64 where `hidden` is); 0 where N is. It can be differentiated once.
    """
    chunks = _chunks(len(hidden), chunk or affordable(hidden, head))
    if not torch.is_grad_enabled() or is_sharded(head):
        return _checkpointed_sum(hidden, head, loss, chunks)
    projection = _LinearHead(head) if _is_linear(head) else _AnyHead(head)
    total: torch.Tensor = _GradientInForward.apply(projection, loss, chunks, hidden, *projection.parameters)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def projected(hidden: torch.Tensor, head: torch.nn.Module, *, chunk: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
    """head(hidden) without gradient, as (positions, their logits [n, V]), chunk after chunk; arguments as of `projected_sum`."""
    project = projector(head)
    for rows in _chunks(len(hidden), chunk or affordable(hidden, head)):
        yield rows, project(hidden[rows])


def projector(head: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """`head` for many calls without gradient: under autocast no converted copy of a linear head's weight is made."""
    return _LinearHead(head).logits if _is_linear(head) and not is_sharded(head) else head


class _GradientInForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projection: _Projection, loss: ChunkLoss, chunks: Sequence[slice], hidden: torch.Tensor, *parameters: torch.Tensor | None
    ) -> torch.Tensor:
        total = upcast(hidden.new_zeros(()))
        needed = ctx.needs_input_grad[3:]
        of_hidden = torch.empty_like(hidden) if needed[0] else None
        of_parameters = [_accumulator(x) if x is not None and wanted else None for x, wanted in zip(parameters, needed[1:], strict=True)]
        for rows in chunks:
            value, gradient = _value_and_gradient(loss, projection.logits(hidden[rows]), rows)
            total = total + value
            of_rows = projection.backward(gradient, hidden[rows], of_parameters)
            if of_hidden is not None:
                of_hidden[rows] = of_rows
            del gradient  # before the next chunk asks for as much
        ctx.gradients = [of_hidden, *of_parameters]
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, *parameters)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("projected_sum formed its gradient in the forward pass and has given it away: it can be differentiated once")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if x is None else x.mul_(upstream).to(dtype) for x, dtype in zip(gradients, ctx.dtypes, strict=True)]
        return None, None, None, *scaled


def _value_and_gradient(loss: ChunkLoss, logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a chunk and its gradient with respect to the logits; nothing else of them stays."""
    with torch.enable_grad():
        value = loss(logits.requires_grad_(), rows)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


class _Projection(Protocol):
    """A head, and its gradient. `backward` follows the `logits` of the same positions."""

    parameters: Sequence[torch.Tensor | None]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...

    def backward(self, gradient: torch.Tensor, hidden: torch.Tensor, totals: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Adds the gradient of each parameter to its total, None where it needs none; returns that of `hidden`."""
        ...


class _LinearHead:
    """A linear layer, whose gradient is added in place: no second tensor as large as the weight.

    Where autocast wants other numbers than the weight is made of, a block of the vocabulary is converted at a time, for the same reason.
    """

    def __init__(self, head: torch.nn.Linear):
        self.parameters = (head.weight, head.bias)
        self.weight, self.dtype = head.weight.detach(), computed_in(head.weight)
        self.bias = None if head.bias is None else head.bias.detach().to(self.dtype)
        self.blocks = [slice(0, len(self.weight))] if self.weight.dtype == self.dtype else _blocks(self.weight)

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.to(self.dtype)
        logits = hidden.new_empty(len(hidden), len(self.weight))
        for block in self.blocks:
            torch.mm(hidden, self.weight[block].to(self.dtype).t(), out=logits[:, block])
        return logits if self.bias is None else logits.add_(self.bias)

    def backward(self, gradient: torch.Tensor, hidden: torch.Tensor, totals: Sequence[torch.Tensor | None]) -> torch.Tensor:
        of_weight, of_bias = totals
        of_hidden, hidden = upcast(torch.zeros_like(hidden)), hidden.to(gradient.dtype)
        for block in self.blocks:
            of_hidden += gradient[:, block] @ self.weight[block].to(self.dtype)
            if of_weight is not None:
                _add_product(of_weight[block], gradient[:, block], hidden)
        if of_bias is not None:
            of_bias += gradient.sum(0, dtype=of_bias.dtype)
        return of_hidden


class _AnyHead:
    """Any module, by automatic differentiation of one chunk: an adapted layer, a layer kept in several copies, no layer at all."""

    def __init__(self, head: torch.nn.Module):
        self.head = head
        self.parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            self.hidden = hidden.detach().requires_grad_()
            self.output = self.head(self.hidden)
        logits: torch.Tensor = self.output.detach()
        return logits

    def backward(self, gradient: torch.Tensor, hidden: torch.Tensor, totals: Sequence[torch.Tensor | None]) -> torch.Tensor:
        of_hidden: torch.Tensor
        of_hidden, *found = torch.autograd.grad(self.output, [self.hidden, *self.parameters], gradient, allow_unused=True)
        for total, gradient in zip(totals, found, strict=True):
            if total is not None and gradient is not None:
                total += gradient
        return of_hidden


def _checkpointed_sum(hidden: torch.Tensor, head: torch.nn.Module, loss: ChunkLoss, chunks: Sequence[slice]) -> torch.Tensor:
    """The same by automatic differentiation, each chunk projected again in the backward pass."""

    def of_chunk(part: torch.Tensor, rows: slice) -> torch.Tensor:
        return loss(head(part), rows)

    # Only an ordinary backward pass calls the hooks that gather and scatter the gradients of a sharded head.
    total = upcast(head(hidden[:0]).sum())  # 0 that depends on every parameter, so that no process is left without a gradient
    for rows in _as_many_everywhere(chunks, hidden.device) if is_sharded(head) else chunks:
        part = hidden[rows]
        total = total + (checkpoint(of_chunk, part, rows, use_reentrant=False) if total.requires_grad else of_chunk(part, rows))
    return total


def _as_many_everywhere(chunks: Sequence[slice], device: torch.device) -> list[slice]:
    """Empty chunks added until every process has as many: gathering a sharded head is an exchange that all must take part in."""
    return [*chunks, *[slice(0, 0)] * (most_anywhere(len(chunks), device) - len(chunks))]


def _is_linear(head: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Exactly a linear layer that nobody has changed the forward pass of."""
    changed = "forward" in vars(head) or head._forward_hooks or head._forward_pre_hooks
    return type(head) is torch.nn.Linear and not changed


def computed_in(tensor: torch.Tensor) -> torch.dtype:
    """The dtype that a matrix product of `tensor` has here."""
    device = tensor.device.type
    autocast = torch.is_autocast_enabled(device) and tensor.dtype != torch.float64
    return torch.get_autocast_dtype(device) if autocast else tensor.dtype


def _accumulator(parameter: torch.Tensor) -> torch.Tensor:
    """Zeros in float32 (float64): chunks are not rounded to half precision as they add up."""
    return torch.zeros_like(parameter, dtype=upcast(parameter.new_empty(0)).dtype)


def _add_product(total: torch.Tensor, gradient: torch.Tensor, hidden: torch.Tensor) -> None:
    """total [V, D] += gradientᵀ hidden; where the product has another dtype than the total, a block of the vocabulary at a time."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden)
        return
    for block in _blocks(total):
        total[block] += gradient[:, block].t() @ hidden


def affordable(hidden: torch.Tensor, head: torch.nn.Module) -> int:
    """Positions at a time, fewer the larger the vocabulary, so that a large one costs no more memory."""
    vocabulary: int | None = getattr(head, "out_features", None)
    if vocabulary is None:
        with torch.no_grad():
            vocabulary = head(hidden[:1]).shape[-1]
    return max(1, chunk_bytes(accelerator=_on_accelerator(hidden)) // (computed_in(hidden).itemsize * max(1, vocabulary)))


def _blocks(weight: torch.Tensor) -> list[slice]:
    return _chunks(len(weight), accelerator_scaled(_BLOCK, accelerator=_on_accelerator(weight)))


def _on_accelerator(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]
