"""The length-only control: a knob that only moves length has calibrated nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["length_reward"]


def length_reward(texts: Sequence[str], truncated: Sequence[bool]) -> torch.Tensor:
    """UTF-8 bytes of each text, [N] float64, nan for truncated and empty ones; it takes the place of C in the advantage.

    Source: ours.
    """
    values = [float("nan") if cut or not text else float(len(text.encode())) for text, cut in zip(texts, truncated, strict=True)]
    return torch.tensor(values, dtype=torch.float64)
