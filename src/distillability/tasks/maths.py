"""Multi-step arithmetic modulo ten, with several right ways to answer.

A prompt is a chain such as ``7+3*9-8``, worked from left to right, every result modulo ten. Multipliers are 3, 7 and 9, which have
inverses modulo ten, so that all ten answers are equally likely and no guess beats 1/10. Each step has its number, the operation and the
result. The modes are those of `modes.py`; answers without steps are graded, but not among the ways that the lab's teacher is taught.

    easy          >1:7+3=0;2:0*9=0;3:0-8=2;#2
    hard          >3:0-8=2;2:0*9=0;1:7+3=0;#2
    remark        >so:1:7+3=0;…
    answer only   #2
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from distillability.tasks.modes import OPENER, CrossedModes
from distillability.types import Prompt

__all__ = ["Maths"]

_MULTIPLIERS = (3, 7, 9)

Operation = tuple[str, int]


def _apply(value: int, operation: Operation) -> int:
    sign, operand = operation
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
    return result % 10


class Maths(CrossedModes):
    """Chains of `operations` operations; 10 · 23^operations prompts in all, 2.8 million for four."""

    chance = 0.1
    alphabet = "0123456789+-*=;#>so:"
    step_form = re.compile(r"(\d):\d([+\-*]\d)=\d;")
    answer_form = r"\d"
    value_at = (2, 3)

    def __init__(self, name: str = "maths", operations: int = 4):
        super().__init__(name, operations)

    @property
    def shown_results(self) -> int:
        return self.depth

    @property
    def n_prompts(self) -> int:
        return int(10 * 23**self.depth)

    def draw(self, rng: random.Random, depth: int | None = None) -> Prompt:
        signs = [rng.choice("+-*") for _ in range(depth or self.depth)]
        chain = [(sign, rng.choice(_MULTIPLIERS) if sign == "*" else rng.randrange(10)) for sign in signs]
        return self._prompt(rng.randrange(10), chain)

    def _prompt(self, start: int, chain: Sequence[Operation]) -> Prompt:
        text = str(start) + "".join(f"{sign}{operand}" for sign, operand in chain)
        value = start
        for operation in chain:
            value = _apply(value, operation)
        return Prompt(id=text, text=text, answer=str(value), meta={"start": start, "chain": [list(operation) for operation in chain]})

    def work(self, prompt: Prompt, error_at: int | None = None) -> tuple[list[str], str]:
        value, steps = prompt.meta["start"], []
        for index, (sign, operand) in enumerate(prompt.meta["chain"]):
            result = _apply(value, (sign, operand))
            if index == error_at:
                result = (result + 1 + len(prompt.text) % 9) % 10
            steps.append(f"{index + 1}:{value}{sign}{operand}={result};")
            value = result
        return steps, str(value)

    def asked(self, prompt: Prompt) -> list[tuple[str, str]]:
        return [(str(index), f"{sign}{operand}") for index, (sign, operand) in enumerate(prompt.meta["chain"], start=1)]

    def leans_hard(self, prompt: Prompt) -> bool:
        return bool(prompt.meta["start"] % 2)

    def other_answer(self, prompt: Prompt) -> str:
        return str((int(prompt.answer) + 1) % 10)

    def oracle_prefill(self, prompt: Prompt) -> str:
        return OPENER + self.work(prompt)[0][0][: -len("0;")]
