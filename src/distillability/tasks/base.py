"""What a task is: prompts in four disjoint splits, a strict grader, and proof that the grader is right."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from distillability.types import Grade, Prompt, Split

__all__ = ["Task", "share_of", "split_of"]

_NUMBER = re.compile(r"[0-9]+")
_RESULT = re.compile(r"=\s*-?\$?(\d{1,3}(?:,\d{3})+|\d+)(?![\d.,]*\d)")
# Hundredths of all prompts, by a hash of the prompt's text: whoever sees a prompt can tell its split.
_UPPER_BOUNDS: tuple[tuple[int, Split], ...] = ((30, "calibrate"), (70, "query"), (80, "validate"), (100, "test"))


def split_of(prompt_text: str) -> Split:
    """The split a prompt belongs to, from its text alone; so splits are disjoint by construction.

    Shares: calibrate .30, query .40, validate .10, test .20.
    """
    hundredth = int.from_bytes(hashlib.sha256(prompt_text.encode()).digest()[:8], "big") % 100
    return next(split for bound, split in _UPPER_BOUNDS if hundredth < bound)


def share_of(split: Split) -> float:
    """The share of all prompts that falls to a split."""
    lower = 0
    for bound, name in _UPPER_BOUNDS:
        if name == split:
            return (bound - lower) / 100
        lower = bound
    raise ValueError(f"there is no split {split!r}")


class Task(ABC):
    """Prompts and a grader. What a task cannot do, it returns None for: missing, never zero.

    Attributes:
        name: as in tables and folders.
        chance: accuracy of the best guess of the right format, a fraction.
        modes: names of the ways of answering that `grade` can tell apart; empty where it labels none.
        easy_modes, hard_modes: those of `modes` that a small student is expected to learn, and not to. Answers alone are neither.
        knows_gold: whether gold answers are right by definition, so that a grader which refuses one is wrong.
        prefill: the bytes common to all answers with visible steps; None where there are none.
    """

    name: str
    chance: float
    modes: tuple[str, ...] = ()
    easy_modes: tuple[str, ...] = ()
    hard_modes: tuple[str, ...] = ()
    knows_gold: bool = True
    prefill: str | None = None

    @abstractmethod
    def stream(self, split: Split) -> Iterator[Prompt]:
        """Distinct prompts of one split, always in the same order, so that a smaller budget is a prefix of a larger one."""

    @abstractmethod
    def grade(self, prompt: Prompt, text: str) -> Grade:
        """Grade one complete text. Never raises on strange text: that is graded wrong."""

    def grade_completion(self, prompt: Prompt, text: str, truncated: bool) -> Grade:
        """Grade what a model said: a truncated text is wrong, whatever it says so far."""
        return Grade(right=False) if truncated else self.grade(prompt, text)

    def prompts(self, split: Split, n: int) -> list[Prompt]:
        """The first `n` prompts of a split; fewer where the split has fewer."""
        return [prompt for _, prompt in zip(range(n), self.stream(split), strict=False)]

    def gold_answer(self, prompt: Prompt) -> str | None:
        """The answer alone, in the form the grader accepts, or None where the task has no answers."""
        return prompt.answer

    def gold_steps(self, prompt: Prompt) -> str | None:
        """A reference solution with easy steps, or None where the task has none."""
        return None

    def wrong_steps(self, prompt: Prompt) -> str | None:
        """A solution with one planted error carried to its end, or None where the task can plant none."""
        return None

    def plant_error(self, prompt: Prompt, text: str) -> str | None:
        """A right text up to and including one wrong step planted in it; None where none can be planted.

        Unless the task knows better, the result of a step halfway through the text, a whole number behind a sign of equality, is one too
        large; the last number is left alone as the answer's.
        """
        results = [match for match in _RESULT.finditer(text) if _NUMBER.search(text, match.end())]
        if not results:
            return None
        wrong = results[len(results) // 2]
        return f"{text[: wrong.start(1)]}{int(wrong[1].replace(',', '')) + 1}"

    def answer_only(self, text: str) -> str | None:
        """`text` cut down to its answer, or None where no answer can be found."""
        return None

    def oracle_prefill(self, prompt: Prompt) -> str | None:
        """The first bytes of the easy mode, or None where the task has none."""
        return None

    def validate(self, n: int = 200) -> list[str]:
        """Problems found in the task itself: gold that is refused, near misses that are accepted, splits that overlap."""
        problems = []
        prompts = [prompt for split in ("calibrate", "query", "validate", "test") for prompt in self.prompts(split, n)]
        if len({prompt.text for prompt in prompts}) != len(prompts):
            problems.append("the splits share prompts")
        for prompt in prompts:
            problems.extend(self._validate_prompt(prompt))
        return problems

    def _validate_prompt(self, prompt: Prompt) -> Sequence[str]:
        problems = []
        gold = self.gold_answer(prompt)
        if gold is not None and self.knows_gold and not self.grade(prompt, gold).right:
            problems.append(f"{prompt.id}: the gold answer is graded wrong")
        steps = self.gold_steps(prompt)
        if steps is not None and not self.grade(prompt, steps).right_steps:
            problems.append(f"{prompt.id}: the gold steps are graded wrong")
        for text in self.near_misses(prompt):
            if self.grade(prompt, text).right:
                problems.append(f"{prompt.id}: the near miss {text!r} is graded right")
        return problems

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        """Texts that are almost right and must be graded wrong."""
        return ("", prompt.answer + "0", prompt.answer + " or not")
