"""Plain statistics of tensors: nan is missing and takes no part; what cannot be computed is None."""

from __future__ import annotations

import torch

__all__ = ["auc", "pearson"]


def auc(positive: torch.Tensor, negative: torch.Tensor) -> float | None:
    """Probability that a draw from `positive` exceeds one from `negative`, ties counting one half; None where either is empty."""
    above, ordered = _known(positive), _known(negative).sort().values
    if above.numel() == 0 or ordered.numel() == 0:
        return None
    below = torch.searchsorted(ordered, above, side="left")
    up_to = torch.searchsorted(ordered, above, side="right")
    return float(((below + up_to).double() / 2).mean() / ordered.numel())


def pearson(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Correlation of two vectors over the pairs of which neither is missing.

    None with fewer than two such pairs, or where one side of them does not vary.

    Raises:
        ValueError: the vectors differ in length.
    """
    if first.shape != second.shape:
        raise ValueError(f"no pairs: shapes {tuple(first.shape)} and {tuple(second.shape)}")
    paired = ~(first.isnan() | second.isnan())
    a, b = first[paired].double(), second[paired].double()
    # Asked of the values themselves: rounding leaves a constant's deviations slightly off 0, and small units leave real ones tiny.
    if a.numel() < 2 or a.min() == a.max() or b.min() == b.max():
        return None
    a, b = a - a.mean(), b - b.mean()
    return float((a / a.norm()) @ (b / b.norm()))


def _known(values: torch.Tensor) -> torch.Tensor:
    return values[~values.isnan()].double()
