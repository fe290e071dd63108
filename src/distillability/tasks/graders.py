"""Graders of a data task: by name, or a function of your own. All have one form, f(prompt, answer, text)."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from distillability.config.own_code import import_own
from distillability.errors import UserError
from distillability.tasks.reward_model import RewardModel
from distillability.types import Grade

__all__ = ["Grader", "Judgement", "named_grader", "own_grader", "reward_grader"]

Judgement = bool | float | Grade
# Thousands are set off by commas, in LaTeX by {,}. A minus between two operands belongs to neither.
_NUMBER = re.compile(r"((?<![\w)\]}])-\s?)?\$?((?:\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)((?:[eE][+-]?\d+)?)")
_PART = ("/", "^")  # beside a number: half of a fraction, or a power
_LETTER = r"\(?([A-Z])\)?+"
_STATED = re.compile(rf"\b(?i:answer\s*(?:is\b\s*:?|:|(?-i:(?=\s\(?[A-Z]\)?[.]?\s*$))))\s*{_LETTER}(?!\w)", re.MULTILINE)
_ANOTHER = re.compile(r"\s*(?:,|/|or\b|and\b)\s*(?:answer\s+is\s*)?\(?(?!I\b)[A-Z]\b")
_SECONDS = 5  # for one expression; hostile ones never end


@dataclass(frozen=True)
class Grader:
    """A way of judging texts.

    Attributes:
        name: as the recipe has it.
        judge: what it says of (prompt, answer, text); the answer is None where the data has none. A number is compared with a threshold.
        gold: the answer alone in the form that `judge` accepts.
        knows_gold: whether the data's own answers are right by definition. A reward model may think otherwise.
        needs_answer: whether it can do nothing without an answer.
    """

    name: str
    judge: Callable[[str, str | None, str], Judgement]
    gold: Callable[[str], str] = str
    knows_gold: bool = True
    needs_answer: bool = True


def exact(prompt: str, answer: str, text: str) -> bool:
    """The whole text is the answer, spaces at the ends aside."""
    return bool(text.strip()) and text.strip() == answer.strip()


def last_line(prompt: str, answer: str, text: str) -> bool:
    """The last line is the answer."""
    return exact(prompt, answer, text.strip().rsplit("\n", 1)[-1])


def contains_number(prompt: str, answer: str, text: str) -> bool:
    """The last number in the text equals the answer's, and nothing but punctuation follows it."""
    given = _last_number(text.strip())
    return given is not None and given == _last_number(answer)


def _last_number(text: str) -> float | None:
    text = text.replace("\N{MINUS SIGN}", "-")
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    sign, digits, power = numbers[-1].groups()
    before, behind = text[: numbers[-1].start()].rstrip(), text[numbers[-1].end() :].lstrip()
    if before.endswith(_PART) or behind.startswith(_PART) or any(map(str.isalnum, behind)):
        return None
    return float(f"{'-' if sign else ''}{re.sub('[,{}]', '', digits)}{power}")


def choice(prompt: str, answer: str, text: str) -> bool:
    """The letter chosen is the answer: the last "answer is (X)" of the text, or \\boxed{X}, or else a last line of a letter alone.

    A text that names several at that place has chosen none.
    """
    return _chosen(text) == answer.strip().strip("()").upper()


def _chosen(text: str) -> str | None:
    plain = re.sub(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*\(?([A-Z])\)?\s*\}?\s*\}", r" answer is \1 ", text.replace("*", "").replace("$", ""))
    last = plain.strip().rsplit("\n", 1)[-1].strip()
    alone = re.fullmatch(rf"{_LETTER}[.:]?", last)
    stated = list(_STATED.finditer(plain))
    if alone or not stated:
        return alone[1] if alone else None
    others = [_ANOTHER.match(plain, one.end()) for one in stated[-2:]]  # the last may follow upon another, or be followed by one
    hedged = any(other is not None and other.end() >= stated[-1].start(1) for other in others)
    return None if hedged else str(stated[-1][1])


def math_verify(prompt: str, answer: str, text: str) -> bool:
    """The last expression in the text equals the answer's, as the package math-verify understands both; \\boxed{…} goes first.

    Raises:
        ValueError: the answer is not an expression.
    """
    from math_verify import parse, verify

    # The package watches the clock by a signal, which only the main thread can set.
    limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
    gold = parse(boxed(answer), parsing_timeout=limit)
    if not gold:
        raise ValueError(f"the answer {answer!r} is not an expression that math-verify can read")
    return bool(verify(gold, parse(text, parsing_timeout=limit), timeout_seconds=limit))


def boxed(answer: str) -> str:
    """An answer as an expression, with the mark of a final one."""
    marked = "\\boxed" in answer or re.search(r"(?<!\\)\$", answer) is not None  # an escaped dollar is money
    return answer if marked else f"\\boxed{{{answer}}}"


_NAMED = {
    "exact": Grader("exact", exact),  # type: ignore[arg-type]
    "last_line": Grader("last_line", last_line),  # type: ignore[arg-type]
    "contains_number": Grader("contains_number", contains_number),  # type: ignore[arg-type]
    "choice": Grader("choice", choice),  # type: ignore[arg-type]
    "math_verify": Grader("math_verify", math_verify, gold=boxed),  # type: ignore[arg-type]
}


def named_grader(name: str) -> Grader:
    """One of the graders above.

    Raises:
        UserError: the package that it needs is not installed.
    """
    if name == "math_verify" and find_spec("math_verify") is None:
        raise UserError.single(
            "grader = math_verify", "the package math-verify is not installed", "pip install 'distillability[math-verify]'"
        )
    return _NAMED[name]


def reward_grader(path: str) -> Grader:
    """A reward model, whose scores a threshold divides; it reads no answer.

    Raises:
        UserError: there is no such reward model.
    """
    model = RewardModel(path)
    return Grader("reward_model", lambda prompt, answer, text: model(prompt, text), knows_gold=False, needs_answer=False)


def own_grader(name: str) -> Grader:
    """A function of the user's own, `module:function`, imported from the working directory or wherever Python looks.

    Raises:
        UserError: it cannot be imported, or cannot be called as f(prompt, answer, text).
    """
    where = f"grader = {name}"
    function: Any = import_own(where, name)
    try:
        inspect.signature(function).bind("prompt", "answer", "text")
    except TypeError as error:
        raise UserError.single(where, f"cannot be called as f(prompt, answer, text): {error}", "give it these three arguments") from error
    return Grader(name, function, needs_answer=False)
