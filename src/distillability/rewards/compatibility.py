"""The rewards of a text: C, the compatibility (how much likelier it is to the proxy than to the original teacher), and its length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from distillability.inference.likelihood import Likelihood

__all__ = ["Normaliser", "compatibility", "length_reward"]

Normaliser = Literal["none", "bytes", "characters", "tokens"]


def compatibility(proxy: Sequence[Likelihood | None], reference: Sequence[Likelihood | None], normaliser: Normaliser) -> torch.Tensor:
    """C(x, y) = (log P(y|x) − log π_ref(y|x)) / n(y), [N] float64, nan where either model could not score the text.

    Args:
        proxy, reference: each model's likelihood of the same texts under its own template and tokenizer.
        normaliser: n(y); `tokens` divides each log-probability by that model's own count, `none` leaves nats a sequence.

    Raises:
        ValueError: the two were asked about different texts.

    Source: the reward is the paper's (arXiv 2604.18963); the normalisers and the rule for missing values are ours.
    """
    return torch.tensor([_one(p, r, normaliser) for p, r in zip(proxy, reference, strict=True)], dtype=torch.float64)


def _one(proxy: Likelihood | None, reference: Likelihood | None, normaliser: Normaliser) -> float:
    if proxy is None or reference is None:
        return float("nan")
    if (proxy.n_bytes, proxy.n_characters) != (reference.n_bytes, reference.n_characters):
        raise ValueError(f"likelihoods of different texts: {proxy.n_bytes} bytes under the proxy, {reference.n_bytes} under the reference")
    match normaliser:
        case "tokens":
            return proxy.logprob / proxy.n_tokens - reference.logprob / reference.n_tokens
        case "none":
            return proxy.logprob - reference.logprob
        case "bytes":
            return (proxy.logprob - reference.logprob) / reference.n_bytes
        case "characters":
            return (proxy.logprob - reference.logprob) / reference.n_characters


def length_reward(texts: Sequence[str], truncated: Sequence[bool]) -> torch.Tensor:
    """UTF-8 bytes of each text, [N] float64, nan for truncated and empty ones; it takes the place of C in the advantage.

    Source: ours.
    """
    values = [float("nan") if cut or not text else float(len(text.encode())) for text, cut in zip(texts, truncated, strict=True)]
    return torch.tensor(values, dtype=torch.float64)
