"""Values of rows of logits whose gradient is worked out by hand, a few rows at a time.

Automatic differentiation of a divergence keeps half a dozen tensors as large as the logits. A rule that knows its own gradient needs
none of them: its temporaries are the size of a block of rows, which stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["Rule", "Slope", "rowwise"]

Slope = Callable[[], torch.Tensor]  # called at most once, so it may write over the rule's temporaries
# (logits [n, V], others [n, …]) → values [n], and on demand the gradient [n, V] of their sum with respect to the logits.
Rule = Callable[..., tuple[torch.Tensor, Slope]]

_BLOCK_ELEMENTS = 1 << 18  # a megabyte in float32


def rowwise(rule: Rule, logits: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """`rule` applied to rows of [N, V] logits: [N].

    Args:
        others: first dimension N; they get no gradient.
    """
    values: torch.Tensor = _Rowwise.apply(rule, logits, *others)  # type: ignore[no-untyped-call]
    return values


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, logits: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        values = []
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[1] else None
        for rows in _blocks(logits):
            found, differentiate = rule(logits[rows], *(other[rows] for other in others))
            values.append(found)
            if gradient is not None:
                gradient[rows] = differentiate()
        ctx.save_for_backward(gradient)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if not (upstream == 1).all():  # a plain sum leaves it as it is
            gradient = gradient * upstream[:, None].to(gradient.dtype)
        return None, gradient, *(None for _ in ctx.needs_input_grad[2:])


def _blocks(logits: torch.Tensor) -> Iterator[slice]:
    """Few rows at a time on a processor; all at once elsewhere, where small kernels cost more than memory. At least one block."""
    n, vocabulary = logits.shape
    size = max(1, _BLOCK_ELEMENTS // max(1, vocabulary) if logits.device.type == "cpu" else n)
    return (slice(start, start + size) for start in range(0, max(1, n), size))
