"""Plain statistics of tensors; what cannot be computed is None."""

from __future__ import annotations

import torch

__all__ = ["auc", "pearson"]


def auc(positive: torch.Tensor, negative: torch.Tensor) -> float | None:
    """Probability that a draw from `positive` exceeds one from `negative`, ties counting one half; None where either is empty."""
    if positive.numel() == 0 or negative.numel() == 0:
        return None
    ordered = negative.double().sort().values
    below = torch.searchsorted(ordered, positive.double().contiguous(), side="left")
    up_to = torch.searchsorted(ordered, positive.double().contiguous(), side="right")
    return float(((below + up_to).double() / 2).mean() / ordered.numel())


def pearson(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Correlation of two vectors; None with fewer than two pairs or where one of them does not vary."""
    if first.numel() < 2:
        return None
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 1e-12 else None
