"""Operations on a letter, one after another, and a format for the answer.

A prompt is one of the first twenty letters, a chain of operations and the bracket that the answer must stand in: ``cNWMTS[``. Each step has
its number, the letter reached so far and the operation asked of it, so that a result stands at the beginning of the next step. The letters
lie on a wheel: after t comes a.

    N   the next letter        F   the next within its block of five        Q   its block of four turned round
    P   the previous letter    B   the previous within its block of five    W   twice its place, a's being 0; k to t: the odd places
    S   its pair swapped       M   the wheel turned round: a and t, b and s  E   what W undoes
    T   three times its place

Every operation is a permutation of the letters, so that all answers are equally likely and no guess beats 1/20. No operation undoes the
one before it. The modes are those of `modes.py`; answers without steps are graded, but not among the ways that the lab's teacher is
taught. With two operations:

    easy          >1cN2dW#[g]
    hard          >2dW1cN#[g]
    remark        >so:1cN…
    answer only   #[g]

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

__all__ = ["Instructions", "Judge", "apply"]

Judge = Callable[[str, str], float]  # prompt, answer → score

LETTERS = "abcdefghijklmnopqrst"
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
# Where each place of the wheel goes.
_OPERATIONS: dict[str, Callable[[int], int]] = {
    "N": lambda place: place + 1,
    "P": lambda place: place - 1,
    "F": lambda place: place - place % 5 + (place + 1) % 5,
    "B": lambda place: place - place % 5 + (place - 1) % 5,
    "Q": lambda place: place - place % 4 + 3 - place % 4,
    "S": lambda place: place ^ 1,
    "M": lambda place: 19 - place,
    "W": lambda place: 2 * (place % 10) + place // 10,
    "E": lambda place: place // 2 + 10 * (place % 2),
    "T": lambda place: 3 * place,
}
OPERATIONS = "".join(_OPERATIONS)
_UNDONE_BY = {"N": "P", "P": "N", "F": "B", "B": "F", "W": "E", "E": "W", "M": "M", "Q": "Q", "S": "S"}


def apply(operation: str, letter: str) -> str:
    """What an operation makes of a letter."""
    return LETTERS[_OPERATIONS[operation](LETTERS.index(letter)) % len(LETTERS)]


class Instructions(CrossedModes):
    """Chains of `operations` operations; about 20 · 10 · 9.2^(operations - 1) · 3 prompts in all, 4.1 million for five."""

    chance = 1 / len(LETTERS)
    alphabet = "".join(dict.fromkeys("0123456789>#so:" + LETTERS + OPERATIONS + "".join(_BRACKETS) + "".join(_BRACKETS.values())))
    step_form = re.compile(rf"(\d)[{LETTERS}]([{OPERATIONS}])")
    answer_form = rf"[(\[{{][{LETTERS}][)\]}}]"
    value_at = (1, 2)

    def __init__(self, name: str = "instructions", operations: int = 5, judge: Judge | None = None, threshold: float = 0.0):
        super().__init__(name, operations)
        self.judge = judge
        self.threshold = threshold

    @property
    def n_prompts(self) -> int:
        chains = dict.fromkeys(OPERATIONS, 1)  # chains that begin with each operation, of one operation so far
        for _ in range(self.depth - 1):
            total = sum(chains.values())
            chains = {name: total - chains.get(_UNDONE_BY.get(name, ""), 0) for name in OPERATIONS}
        return len(LETTERS) * len(_BRACKETS) * sum(chains.values())

    def draw(self, rng: random.Random, depth: int | None = None) -> Prompt:
        letter, operations = rng.choice(LETTERS), rng.choice(OPERATIONS)
        while len(operations) < (depth or self.depth):
            name = rng.choice(OPERATIONS)
            if name != _UNDONE_BY.get(operations[-1]):
                operations += name
        return self._prompt(letter, operations, rng.choice(list(_BRACKETS)))

    def _prompt(self, letter: str, operations: str, bracket: str) -> Prompt:
        text, reached = letter + operations + bracket, letter
        for name in operations:
            reached = apply(name, reached)
        meta = {"letter": letter, "operations": operations, "bracket": bracket}
        return Prompt(id=text, text=text, answer=_bracketed(reached, bracket), meta=meta)

    def work(self, prompt: Prompt, error_at: int | None = None) -> tuple[list[str], str]:
        letter, steps = prompt.meta["letter"], []
        for index, name in enumerate(prompt.meta["operations"]):
            steps.append(f"{index + 1}{letter}{name}")
            letter = apply(name, letter)
            if index == error_at:
                letter = _another(letter, by=1 + sum(map(ord, prompt.text)) % (len(LETTERS) - 1))
        return steps, _bracketed(letter, prompt.meta["bracket"])

    def asked(self, prompt: Prompt) -> list[tuple[str, str]]:
        return [(str(index), name) for index, name in enumerate(prompt.meta["operations"], start=1)]

    def leans_hard(self, prompt: Prompt) -> bool:
        return LETTERS.index(prompt.meta["letter"]) % 2 == 1

    def other_answer(self, prompt: Prompt) -> str:
        return _bracketed(_another(prompt.answer[1], by=1), prompt.meta["bracket"])

    def grade(self, prompt: Prompt, text: str) -> Grade:
        grade = super().grade(prompt, text)
        if self.judge is None:
            return grade
        right = self.judge(prompt.text, text) >= self.threshold
        return replace(grade, right=right, right_steps=bool(grade.right_steps) and right)

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        if self.judge is not None:  # what it accepts is its own affair
            return ()
        answer, letter = prompt.answer, prompt.answer[1]
        other = next(bracket for bracket in _BRACKETS if bracket != prompt.meta["bracket"])
        of_form = (letter, answer[:-1], answer[1:], _bracketed(letter, other), answer[:2] + _BRACKETS[other], answer + answer[-1])
        return (*super().near_misses(prompt), *("#" + text for text in of_form), "#" + answer.upper())


def _another(letter: str, by: int) -> str:
    return LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)]


def _bracketed(letter: str, bracket: str) -> str:
    return bracket + letter + _BRACKETS[bracket]
