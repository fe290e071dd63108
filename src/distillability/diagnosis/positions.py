"""Position-wise numbers brought together: means and shares over all positions of some texts, profiles along a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distillability.diagnosis.estimates import Estimate, Floats, missing, ratio_of_sums, sums_by_text
from distillability.diagnosis.evidence import Compared, Evidence, TokenStats, Traced

__all__ = ["early_and_late", "over_positions", "profile", "share_of"]

_SAME = 1e-6  # nats a position; below it teacher and student say the same up to rounding
_TENTHS = 10

Values = Callable[[Compared], Floats]


def over_positions(evidence: Evidence, traced: Traced, values: Values) -> Estimate:
    """Mean over the positions of `traced`; missing where the vocabularies differ."""
    if traced.compared is None:
        return missing(evidence.reason("compared"), len(traced.texts))
    found = values(traced.compared)
    return ratio_of_sums(*_sums(traced, traced.compared.text, found, np.ones_like(found)), n_skipped=traced.n_skipped)


def share_of(evidence: Evidence, traced: Traced, part: Values, whole: Values) -> Estimate:
    """Σ part / Σ whole over positions; missing where the vocabularies differ, and where teacher and student say the same."""
    if traced.compared is None:
        return missing(evidence.reason("compared"), len(traced.texts))
    below = whole(traced.compared)
    if np.isfinite(below.sum()) and below.sum() <= _SAME * len(below):
        return missing("teacher and student say the same, so there is nothing to share out", len(traced.texts), traced.n_skipped)
    return ratio_of_sums(*_sums(traced, traced.compared.text, part(traced.compared), below), n_skipped=traced.n_skipped)


def early_and_late(stats: TokenStats | Compared, values: Floats, n_texts: int) -> tuple[Floats, Floats]:
    """Means of `values` over the first and the last third of each text that has both: [n] each."""
    means = []
    for where in (stats.place < 1 / 3, stats.place >= 2 / 3):
        sums, counts = (sums_by_text(one, stats.text, n_texts) for one in (values * where, where.astype(np.float64)))
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(sums / counts)
    both = np.isfinite(means[0]) & np.isfinite(means[1])
    return means[0][both], means[1][both]


def profile(place: Floats, values: Floats) -> list[dict[str, Any]]:
    """Mean of `values` by tenths of a text; a tenth without positions is left out."""
    tenth = np.minimum((place * _TENTHS).astype(int), _TENTHS - 1)
    return [
        {"place": (number + 0.5) / _TENTHS, "value": float(values[tenth == number].mean()), "n": int((tenth == number).sum())}
        for number in range(_TENTHS)
        if (tenth == number).any()
    ]


def _sums(traced: Traced, text: Any, *values: Floats) -> Sequence[Floats]:
    return [sums_by_text(one, text, len(traced.texts)) for one in values]
