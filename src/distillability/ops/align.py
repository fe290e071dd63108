"""THE shift: which position predicts which token. Nothing else in the package shifts labels."""

from __future__ import annotations

import torch

__all__ = ["IGNORE", "next_token_positions"]

IGNORE = -100


def next_token_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The positions whose prediction is scored, row by row.

    Args:
        labels: [B, T], the token ids themselves, IGNORE where a token is no target.

    Returns:
        rows [N], columns [N], targets [N]: the logits at (row, column) predict the target, the token at column + 1.
        A label in the first column has no position that predicts it and is left out.
    """
    rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    return rows, columns, labels[rows, columns + 1]
