"""Operations on a word of four letters, one after another, and a format for the answer.

A prompt is a word of four different letters, a chain of operations and the sign that must stand between the letters of the answer:
``dbheRACLE-``. Each step has its number, the word so far and the operation asked of it, so that a result stands at the beginning of the
next step.

    R   reverse                       A   swap the first and the second       D   swap the first and the last
    L   the first letter to the end   B   swap the second and the third       E   swap the first and the third
    T   the last letter to the front  C   swap the third and the last         F   swap the second and the last
    H   swap the two halves

No operation undoes the one before it. The modes are those of `modes.py`; answers without steps are graded, but not among the ways that
the lab's teacher is taught. With two operations:

    easy          >1dbheR2ehbdA#h-e-b-d
    hard          >2ehbdA1dbheR#h-e-b-d
    remark        >so:1dbheR…
    answer only   #h-e-b-d

Graded by rules. A reward model can say what is right instead: a score of `threshold` or more means right; which steps were shown, and
whether they are right, is still for the rules to say.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from distillability.tasks.modes import CrossedModes
from distillability.types import Grade, Prompt

__all__ = ["Instructions", "Judge"]

Judge = Callable[[str, str], float]  # prompt, answer → score

_LETTERS, _SEPARATORS = "abcdefgh", "-.,"
# Where each letter of the result comes from.
_OPERATIONS = {
    "R": (3, 2, 1, 0),
    "L": (1, 2, 3, 0),
    "T": (3, 0, 1, 2),
    "H": (2, 3, 0, 1),
    "A": (1, 0, 2, 3),
    "B": (0, 2, 1, 3),
    "C": (0, 1, 3, 2),
    "D": (3, 1, 2, 0),
    "E": (2, 1, 0, 3),
    "F": (0, 3, 2, 1),
}
_NAMES = "".join(_OPERATIONS)
_UNDONE_BY = {name: name for name in _NAMES} | {"L": "T", "T": "L"}


def _apply(word: str, operation: str) -> str:
    return "".join(word[source] for source in _OPERATIONS[operation])


class Instructions(CrossedModes):
    """Chains of `operations` operations; 1,680 · 10 · 9^(operations - 1) · 3 prompts in all, 331 million for five."""

    chance = 0.044  # the letters are given: of their 24 orders the likeliest
    alphabet = "0123456789>#so:" + _LETTERS + _NAMES + _SEPARATORS
    step_form = re.compile(rf"(\d)[{_LETTERS}]{{4}}([{_NAMES}])")
    answer_form = rf"[{_LETTERS}](?:[{re.escape(_SEPARATORS)}][{_LETTERS}]){{3}}"
    value_at = (1, 5)

    def __init__(self, name: str = "instructions", operations: int = 5, judge: Judge | None = None, threshold: float = 0.0):
        super().__init__(name, operations)
        self.judge = judge
        self.threshold = threshold

    @property
    def n_prompts(self) -> int:
        return int(1680 * len(_NAMES) * (len(_NAMES) - 1) ** (self.depth - 1) * len(_SEPARATORS))

    def draw(self, rng: random.Random, depth: int | None = None) -> Prompt:
        word, operations = "".join(rng.sample(_LETTERS, 4)), rng.choice(_NAMES)
        while len(operations) < (depth or self.depth):
            name = rng.choice(_NAMES)
            if name != _UNDONE_BY[operations[-1]]:
                operations += name
        return self._prompt(word, operations, rng.choice(_SEPARATORS))

    def _prompt(self, word: str, operations: str, separator: str) -> Prompt:
        text, result = word + operations + separator, word
        for name in operations:
            result = _apply(result, name)
        meta = {"word": word, "operations": operations, "separator": separator}
        return Prompt(id=text, text=text, answer=separator.join(result), meta=meta)

    def work(self, prompt: Prompt, error_at: int | None = None) -> tuple[list[str], str]:
        word, steps = prompt.meta["word"], []
        for index, name in enumerate(prompt.meta["operations"]):
            steps.append(f"{index + 1}{word}{name}")
            word = _apply(word, name)
            if index == error_at:
                word = _apply(word, "ABCDEF"[sum(map(ord, prompt.text)) // self.depth % 6])
        return steps, prompt.meta["separator"].join(word)

    def asked(self, prompt: Prompt) -> list[tuple[str, str]]:
        return [(str(index), name) for index, name in enumerate(prompt.meta["operations"], start=1)]

    def leans_hard(self, prompt: Prompt) -> bool:
        return _LETTERS.index(prompt.meta["word"][0]) % 2 == 1

    def other_answer(self, prompt: Prompt) -> str:
        return prompt.answer[::-1]

    def grade(self, prompt: Prompt, text: str) -> Grade:
        grade = super().grade(prompt, text)
        if self.judge is None:
            return grade
        right = self.judge(prompt.text, text) >= self.threshold
        return replace(grade, right=right, right_steps=bool(grade.right_steps) and right)

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        if self.judge is not None:  # what it accepts is its own affair
            return ()
        answer, separator = prompt.answer, prompt.meta["separator"]
        other = next(sign for sign in _SEPARATORS if sign != separator)
        of_form = (answer.replace(separator, other), answer.replace(separator, other, 1), answer.replace(separator, ""), answer + separator)
        return (*super().near_misses(prompt), *("#" + text for text in of_form), "#" + answer.upper(), "#" + answer[:-2])
