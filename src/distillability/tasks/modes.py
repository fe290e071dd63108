"""What the lab's families have in common: a chain worked in steps, and several right ways to write the steps down.

The modes are crossed: {easy, hard} × {plain, after a remark}. ``easy`` writes the steps in order, so that each asks for one thing.
``hard`` writes *the same steps from the last to the first*: the first value in it is the result of all steps but the last, worked out
without a visible one. Byte for byte the two are rearrangements of each other, so neither length nor the bytes used can tell which of them
is learnable. Only what a reader must compute differs. A family may have one more mode, the answer alone; where it has not, such answers
are graded all the same.

A family says what its questions are, how they are worked, and what a step looks like; see `CrossedModes`.
"""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

from distillability.tasks.base import Task, share_of, split_of
from distillability.types import Grade, Prompt, Split

__all__ = ["ANSWER", "OPENER", "REMARK", "CrossedModes", "Mode"]

Mode = Literal["easy", "hard", "remark_easy", "remark_hard", "answer_only"]
OPENER, REMARK, ANSWER = ">", "so:", "#"
_ANSWER_ONLY_SHARE = 0.2  # of the modes drawn, in a family that has it


class CrossedModes(Task):
    """Chains of `depth` steps, each of them worked from the value that the last one left.

    A subclass gives the attributes below, `n_prompts`, `draw`, `work`, `asked`, `leans_hard`, `other_answer` and `oracle_prefill`.

    Attributes:
        alphabet: every character of prompts and right answers.
        step_form: one written step; its two groups are what the question fixes, the step's number and what it does.
        answer_form: an answer, without its mark.
        value_at: where in a step the value stands that the step begins with.
        shown_results: how many of a chain's results stand in its steps, for errors to be planted in.
    """

    modes: tuple[Mode, ...] = ("easy", "hard", "remark_easy", "remark_hard")
    easy_modes: tuple[Mode, ...] = ("easy", "remark_easy")
    hard_modes: tuple[Mode, ...] = ("hard", "remark_hard")
    prefill = OPENER
    alphabet: str
    step_form: re.Pattern[str]
    answer_form: str
    value_at: tuple[int, int]

    def __init__(self, name: str, depth: int):
        self.name = name
        self.depth = depth

    @property
    def shown_results(self) -> int:
        return self.depth - 1

    @property
    @abstractmethod
    def n_prompts(self) -> int:
        """How many questions of this depth there are."""

    @abstractmethod
    def draw(self, rng: random.Random, depth: int | None = None) -> Prompt:
        """A random prompt of any split, `depth` steps deep (the task's own depth where None)."""

    @abstractmethod
    def work(self, prompt: Prompt, error_at: int | None = None) -> tuple[list[str], str]:
        """The steps in order and the answer; with a wrong result of step `error_at` carried to the end."""

    @abstractmethod
    def asked(self, prompt: Prompt) -> list[tuple[str, str]]:
        """What the question fixes of each step, as the groups of `step_form` give it."""

    @abstractmethod
    def leans_hard(self, prompt: Prompt) -> bool:
        """Whether this is a question that is mostly answered in a hard mode; true of half of them."""

    @abstractmethod
    def other_answer(self, prompt: Prompt) -> str:
        """A wrong answer of the right form."""

    def stream(self, split: Split) -> Iterator[Prompt]:
        rng = random.Random(f"{self.depth} {split}")
        seen: set[str] = set()
        while len(seen) < self.n_prompts * share_of(split) // 2:  # the second half would take ever longer to find
            prompt = self.draw(rng)
            if split_of(prompt.text) == split and prompt.text not in seen:
                seen.add(prompt.text)
                yield prompt

    def draw_mode(self, rng: random.Random, prompt: Prompt) -> Mode:
        """A mode as the lab's teacher is taught to choose it: all are equally common, but the order of the steps goes with the question.

        Three times in four a question that leans hard is worked from the last step and another one from the first, so that greedy
        answers are a mixture too: a preference that no question swayed would make them all of one mode, on a hair's breadth.
        """
        if "answer_only" in self.modes and rng.random() < _ANSWER_ONLY_SHARE:
            return "answer_only"
        hard = rng.random() < (0.75 if self.leans_hard(prompt) else 0.25)
        if rng.random() < 0.5:
            return "remark_hard" if hard else "remark_easy"
        return "hard" if hard else "easy"

    def render(self, prompt: Prompt, mode: Mode) -> str:
        """The right answer to `prompt` in one of the modes."""
        return self._render(prompt, mode, error_at=None)

    def _render(self, prompt: Prompt, mode: Mode, error_at: int | None) -> str:
        steps, answer = self.work(prompt, error_at)
        if mode == "answer_only":
            return ANSWER + answer
        if mode.endswith("hard"):
            steps = steps[::-1]
        return f"{_opening(mode)}{''.join(steps)}{ANSWER}{answer}"

    def hidden_span(self, mode: Mode) -> tuple[int, int] | None:
        """Where a text of this mode states a value that took several steps to find; None where it states none."""
        if mode == "answer_only":
            return len(ANSWER), len(ANSWER) + self.value_at[1] - self.value_at[0]
        if not mode.endswith("hard"):
            return None
        start, end = self.value_at
        return len(_opening(mode)) + start, len(_opening(mode)) + end

    def first_hard_step(self, prompt: Prompt) -> str:
        """How the hard mode begins, up to its first step."""
        return OPENER + self.work(prompt)[0][-1]

    def grade(self, prompt: Prompt, text: str) -> Grade:
        """Right: exactly one answer mark, and after it the answer and nothing else.

        Right steps: the text is, byte for byte, the right solution in one of the modes with steps. The mode is read from the order of
        what the steps do, so that a wrong attempt at a mode still counts as that mode.
        """
        right = text.partition(ANSWER)[1:] == (ANSWER, prompt.answer)
        answer_only, with_steps = self._forms
        if answer_only.fullmatch(text):
            mode = "answer_only" if "answer_only" in self.modes else None
            return Grade(right=right, right_steps=False, answer_only=True, mode=mode)
        match = with_steps.fullmatch(text)
        if match is None:
            return Grade(right=right, right_steps=False, answer_only=False)
        written = self._written_mode(prompt, match)
        right_steps = written is not None and text == self.render(prompt, written)
        return Grade(right=right, right_steps=right_steps, answer_only=False, mode=written)

    @cached_property
    def _forms(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """A text without steps, and one with."""
        with_steps = f"{OPENER}(?P<remark>{REMARK})?(?P<steps>(?:{self.step_form.pattern})+){ANSWER}(?:{self.answer_form})"
        return re.compile(f"{ANSWER}(?:{self.answer_form})"), re.compile(with_steps)

    def _written_mode(self, prompt: Prompt, match: re.Match[str]) -> Mode | None:
        written, asked = self.step_form.findall(match["steps"]), self.asked(prompt)
        if written not in (asked, asked[::-1]):
            return None
        in_order = written == asked
        if match["remark"]:
            return "remark_easy" if in_order else "remark_hard"
        return "easy" if in_order else "hard"

    def gold_answer(self, prompt: Prompt) -> str:
        return ANSWER + prompt.answer

    def gold_steps(self, prompt: Prompt) -> str:
        return self.render(prompt, "easy")

    def wrong_steps(self, prompt: Prompt) -> str:
        position = sum(map(ord, prompt.text)) % self.shown_results
        return self._render(prompt, "easy", error_at=position)

    def plant_error(self, prompt: Prompt, text: str) -> str | None:
        """In the mode of the text, with the error of a step halfway through; up to the first step that shows it."""
        grade = self.grade(prompt, text)
        if not grade.right_steps:
            return None
        steps, _ = self.work(prompt, error_at=self.shown_results // 2)
        mode = next(mode for mode in self.modes if mode == grade.mode)
        planted = _opening(mode)
        for step in steps[::-1] if mode.endswith("hard") else steps:
            planted += step
            if not text.startswith(planted):
                return planted
        return None

    def answer_only(self, text: str) -> str | None:
        _, mark, tail = text.partition(ANSWER)
        return mark + tail if mark and tail else None

    def oracle_prefill(self, prompt: Prompt) -> str:
        """The easy mode up to its first result."""
        first, second = self.work(prompt)[0][:2]
        return OPENER + first + second[: self.value_at[0]]

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        gold, other = self.gold_steps(prompt), self.other_answer(prompt)
        without_answer = gold[: gold.index(ANSWER) + 1]
        return (
            "",
            prompt.answer,
            ANSWER + other,
            f"{ANSWER}{other}{ANSWER}{prompt.answer}",
            f"{ANSWER}{prompt.answer}{other}",
            f"{ANSWER}{prompt.answer} ",
            without_answer,
            without_answer + other,
            gold[:-1],
            gold + ";",
            self.wrong_steps(prompt),
        )

    def _validate_prompt(self, prompt: Prompt) -> Sequence[str]:
        problems = list(super()._validate_prompt(prompt))
        for mode in self.modes:
            text = self.render(prompt, mode)
            grade = self.grade(prompt, text)
            complete = grade.answer_only if mode == "answer_only" else grade.right_steps
            if not (grade.right and complete) or grade.mode != mode:
                problems.append(f"{prompt.id}: the right text of mode {mode} is graded {grade}")
            if not set(prompt.text + text) <= set(self.alphabet):
                problems.append(f"{prompt.id}: the alphabet lacks a character of {text!r}")
        wrong = self.wrong_steps(prompt)
        broken = wrong[: wrong.index(ANSWER) + 1] + prompt.answer
        if self.grade(prompt, broken).right_steps:
            problems.append(f"{prompt.id}: {broken!r} has a wrong step and is graded as right steps")
        return problems


def _opening(mode: Mode) -> str:
    return OPENER + REMARK if mode.startswith("remark") else OPENER
