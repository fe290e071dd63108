"""From forecasts to advice: what to distil from, and by which objective."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["Advice", "advise"]


@dataclass(frozen=True)
class Advice:
    """What to distil from, and how.

    expected: the accuracy. against: that of the plain teacher's own texts by seqkd; None where it is not known.
    """

    source: str
    objective: str
    expected: float
    against: float | None


def advise(
    expected: Mapping[str, Mapping[str, float]], at_most: Mapping[str, float], teachers: Collection[str], plain: str
) -> Advice | None:
    """The source and objective of highest expected accuracy; None where no source has a forecast.

    The plain teacher's own texts are preferred while the upper end of their interval reaches the best value, for they are the cheapest.

    Args:
        expected: by source, then by objective.
        at_most: the upper end of each source's interval, by seqkd.
        teachers: the sources that are a teacher's own texts, unselected: only those can be learnt from by logits, for along others a
            teacher's logits are still its own mixture of ways.
        plain: which of the sources is the plain teacher's.
    """
    options = {
        (source, objective): value
        for source, by_objective in expected.items()
        for objective, value in by_objective.items()
        if objective == "seqkd" or source in teachers
    }
    if not options:
        return None
    best = max(options, key=lambda option: options[option])
    if at_most.get(plain, 0.0) >= options[best]:
        best = max((option for option in options if option[0] == plain), key=lambda option: options[option])
    return Advice(*best, options[best], options.get((plain, "seqkd")))
