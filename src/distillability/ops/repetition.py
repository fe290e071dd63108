"""Does a text go round in circles?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

__all__ = ["repeats"]


def repeats(tokens: Sequence[Hashable], n: int = 4, times: int = 3) -> bool:
    """Whether the last n tokens, in this order, stand at least `times` times in the text, overlaps counted; False for fewer than n tokens.

    Source: ours; a text that was cut off in a loop ends inside it.
    """
    last = list(tokens[-n:])
    return len(last) == n and sum(list(tokens[start : start + n]) == last for start in range(len(tokens) - n + 1)) >= times
