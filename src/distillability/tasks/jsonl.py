"""Prompts and answers of your own: one JSON object a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from distillability.errors import Problem, UserError
from distillability.tasks.base import Task, split_of
from distillability.types import SPLITS, Grade, Prompt, Split

__all__ = ["Jsonl", "read_prompts"]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def read_prompts(path: Path, prompt_column: str, answer_column: str) -> list[Prompt]:
    """Read prompts from a JSONL file.

    Raises:
        UserError: the file is missing or empty, or rows are not JSON objects or lack a prompt or an answer; all such rows at once
            (the first ten), each with its line.
    """
    if not path.is_file():
        raise UserError.single(str(path), "there is no such file", "give the path of a JSONL file in tasks.path")
    prompts, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(where, f"not JSON ({error.msg})", "one JSON object a line"))
            continue
        if not isinstance(row, dict):
            problems.append(Problem(where, f"a JSON {type(row).__name__}, not an object", 'write {"prompt": …, "answer": …}'))
            continue
        missing = [column for column in (prompt_column, answer_column) if not _is_text(row.get(column))]
        if missing:
            found = ", ".join(map(repr, row)) or "none"
            problems.append(
                Problem(where, f"no text in column {missing[0]!r}; columns found: {found}", "set tasks.prompt_column / tasks.answer_column")
            )
            continue
        prompts.append(Prompt(id=f"{path.name}:{number}", text=str(row[prompt_column]), answer=str(row[answer_column])))
    if problems:
        rest = len(problems) - 10
        tail = [Problem(str(path), f"{rest} more rows like these")] if rest > 0 else []
        raise UserError(problems[:10] + tail)
    if not prompts:
        raise UserError.single(str(path), "the task is empty: no rows", "add at least one row for each split")
    return prompts


def _is_text(value: object) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or (isinstance(value, str) and bool(value.strip()))


class Jsonl(Task):
    """A task read from a file; a prompt's split is a hash of its text.

    Graders: `exact` (the whole text, spaces at the ends aside), `last_line` (the last line), `contains_number` (the last number in
    the text equals the answer's, and nothing but punctuation follows it).
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        prompt_column: str = "prompt",
        answer_column: str = "answer",
        grader: Literal["exact", "last_line", "contains_number"] = "exact",
        chance: float = 0.0,
    ):
        self.name = name
        self.path = path
        self.grader = grader
        self.chance = chance
        unique = {prompt.text: prompt for prompt in read_prompts(path, prompt_column, answer_column)}
        self._by_split: dict[Split, list[Prompt]] = {split: [] for split in SPLITS}
        for prompt in unique.values():
            self._by_split[split_of(prompt.text)].append(prompt)
        empty = [split for split in SPLITS if not self._by_split[split]]
        if empty:
            raise UserError.single(
                str(path),
                f"{len(unique)} distinct prompts leave no prompt for {', '.join(empty)}",
                "add rows: prompts fall to calibrate / query / validate / test as 30 / 40 / 10 / 20 %",
            )

    def stream(self, split: Split) -> Iterator[Prompt]:
        return iter(self._by_split[split])

    def grade(self, prompt: Prompt, text: str) -> Grade:
        given = text.strip()
        if self.grader == "last_line":
            given = given.rsplit("\n", 1)[-1].strip()
        if self.grader == "contains_number":
            return Grade(right=_last_number(given) is not None and _last_number(given) == _last_number(prompt.answer))
        return Grade(right=bool(given) and given == prompt.answer.strip())

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        return ("", prompt.answer + " 0", "not " + prompt.answer + "7")


def _last_number(text: str) -> float | None:
    numbers = list(_NUMBER.finditer(text))
    if not numbers or any(character.isalnum() for character in text[numbers[-1].end() :]):
        return None
    return float(numbers[-1].group())
