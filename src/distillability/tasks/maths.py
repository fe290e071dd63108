"""Multi-step arithmetic modulo ten, with several right ways to answer.

A prompt is a chain such as ``7+3*9-8``, worked from left to right, every result modulo ten. Multipliers are 3, 7 and 9, which have
inverses modulo ten, so that all ten answers are equally likely and no guess beats 1/10.

The modes are crossed: {easy, hard} × {plain, after a remark}. Each step has its number, the operation and the result. ``easy`` writes
the steps in order, so that each asks for one operation. ``hard`` writes *the same steps from the last to the first*: the first value in
it is the result of all operations but the last, worked out without a visible step. Byte for byte the two are rearrangements of each
other, so neither length nor the bytes used can tell which of them is learnable. Only what a reader must compute differs. Answers
without steps are graded too.

    easy          >1:7+3=0;2:0*9=0;3:0-8=2;#2
    hard          >3:0-8=2;2:0*9=0;1:7+3=0;#2
    remark        >so:1:7+3=0;…
    answer only   #2
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from distillability.tasks.base import Task, split_of
from distillability.types import Grade, Prompt, Split

__all__ = ["ALPHABET", "Maths", "Mode"]

Mode = Literal["easy", "hard", "remark_easy", "remark_hard"]
ALPHABET = "0123456789+-*=;#>so:"
_OPENER, _REMARK, _ANSWER = ">", "so:", "#"
_MULTIPLIERS = (3, 7, 9)
_TEXT = re.compile(r">(?P<remark>so:)?(?P<steps>(?:\d:\d[+\-*]\d=\d;)+)#(?P<answer>\d)")
_STEP = re.compile(r"(\d):\d([+\-*]\d)=\d;")
_ANSWER_ONLY = re.compile(r"#\d")

Operation = tuple[str, int]


def _apply(value: int, operation: Operation) -> int:
    sign, operand = operation
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
    return result % 10


class Maths(Task):
    """Chains of `operations` operations; 10 · 23^operations prompts in all, 2.8 million for four."""

    chance = 0.1
    modes = get_args(Mode)
    easy_modes = ("easy", "remark_easy")
    prefill = _OPENER

    def __init__(self, name: str = "maths", operations: int = 4):
        self.name = name
        self.operations = operations

    def stream(self, split: Split) -> Iterator[Prompt]:
        rng = random.Random(f"{self.operations} {split}")
        seen: set[str] = set()
        while len(seen) < 23**self.operations // 2:  # half of what the smallest split holds
            prompt = self.draw(rng)
            if split_of(prompt.text) == split and prompt.text not in seen:
                seen.add(prompt.text)
                yield prompt

    def draw(self, rng: random.Random, operations: int | None = None) -> Prompt:
        """A random prompt of any split, with `operations` operations (the task's own number where None)."""
        signs = [rng.choice("+-*") for _ in range(operations or self.operations)]
        chain = [(sign, rng.choice(_MULTIPLIERS) if sign == "*" else rng.randrange(10)) for sign in signs]
        return self._prompt(rng.randrange(10), chain)

    def _prompt(self, start: int, chain: Sequence[Operation]) -> Prompt:
        text = str(start) + "".join(f"{sign}{operand}" for sign, operand in chain)
        value = start
        for operation in chain:
            value = _apply(value, operation)
        return Prompt(id=text, text=text, answer=str(value), meta={"start": start, "chain": [list(operation) for operation in chain]})

    def draw_mode(self, rng: random.Random, prompt: Prompt) -> Mode:
        """A mode as the lab's teacher is taught to choose it: all are equally common, but the order of the steps goes with the question.

        Three times in four an odd start is worked from the last step and an even one from the first, so that greedy answers are a
        mixture too: a preference that no question swayed would make them all of one mode, on a hair's breadth.
        """
        hard = rng.random() < (0.75 if prompt.meta["start"] % 2 else 0.25)
        if rng.random() < 0.5:
            return "remark_hard" if hard else "remark_easy"
        return "hard" if hard else "easy"

    def render(self, prompt: Prompt, mode: Mode) -> str:
        """The right answer to `prompt` in one of the modes."""
        return self._render(prompt, mode, error_at=None)

    def _render(self, prompt: Prompt, mode: Mode, error_at: int | None) -> str:
        value, steps = prompt.meta["start"], []
        for index, (sign, operand) in enumerate(prompt.meta["chain"]):
            result = _apply(value, (sign, operand))
            if index == error_at:
                result = (result + 1 + len(prompt.text) % 9) % 10
            steps.append(f"{index + 1}:{value}{sign}{operand}={result};")
            value = result
        if mode.endswith("hard"):
            steps.reverse()
        remark = _REMARK if mode.startswith("remark") else ""
        return f"{_OPENER}{remark}{''.join(steps)}{_ANSWER}{value}"

    def grade(self, prompt: Prompt, text: str) -> Grade:
        """Right: exactly one answer mark, and after it the answer and nothing else.

        Right steps: the text is, byte for byte, the right solution in one of the modes. The mode is read from the order of the
        prompt's operations, so that a wrong attempt at a mode still counts as that mode.
        """
        right = text.partition(_ANSWER)[1:] == (_ANSWER, prompt.answer)
        if _ANSWER_ONLY.fullmatch(text):
            return Grade(right=right, right_steps=False, answer_only=True)
        match = _TEXT.fullmatch(text)
        if match is None:
            return Grade(right=right, right_steps=False, answer_only=False)
        mode = self._mode(prompt, match)
        right_steps = mode is not None and text == self.render(prompt, mode)
        return Grade(right=right, right_steps=right_steps, answer_only=False, mode=mode)

    def _mode(self, prompt: Prompt, match: re.Match[str]) -> Mode | None:
        written = _STEP.findall(match["steps"])
        asked = [(str(index), f"{sign}{operand}") for index, (sign, operand) in enumerate(prompt.meta["chain"], start=1)]
        if written not in (asked, asked[::-1]):
            return None
        in_order = written == asked
        if match["remark"]:
            return "remark_easy" if in_order else "remark_hard"
        return "easy" if in_order else "hard"

    def gold_answer(self, prompt: Prompt) -> str:
        return _ANSWER + prompt.answer

    def gold_steps(self, prompt: Prompt) -> str:
        return self.render(prompt, "easy")

    def wrong_steps(self, prompt: Prompt) -> str:
        position = sum(map(ord, prompt.text)) % self.operations
        return self._render(prompt, "easy", error_at=position)

    def answer_only(self, text: str) -> str | None:
        _, mark, tail = text.partition(_ANSWER)
        return mark + tail if mark and tail else None

    def oracle_prefill(self, prompt: Prompt) -> str:
        sign, operand = prompt.meta["chain"][0]
        return f"{_OPENER}1:{prompt.meta['start']}{sign}{operand}="

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        other = str((int(prompt.answer) + 1) % 10)
        gold = self.gold_steps(prompt)
        return (
            "",
            prompt.answer,
            f"#{other}",
            f"#{other}#{prompt.answer}",
            f"#{prompt.answer}{other}",
            f"#{prompt.answer} ",
            gold[:-1],
            gold[:-1] + other,
            gold + ";",
            self.wrong_steps(prompt),
        )

    def _validate_prompt(self, prompt: Prompt) -> Sequence[str]:
        problems = list(super()._validate_prompt(prompt))
        for mode in self.modes:
            grade = self.grade(prompt, self.render(prompt, mode))
            if not (grade.right and grade.right_steps) or grade.mode != mode:
                problems.append(f"{prompt.id}: the right text of mode {mode} is graded {grade}")
        broken = self.wrong_steps(prompt)[:-1] + prompt.answer
        if self.grade(prompt, broken).right_steps:
            problems.append(f"{prompt.id}: {broken!r} has a wrong step and is graded as right steps")
        return problems
