"""Prompts and answers of your own, from any data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from string import Formatter, ascii_uppercase
from typing import Any

from distillability.errors import Problem, UserError
from distillability.tasks.base import Task, split_of
from distillability.tasks.graders import Grader
from distillability.tasks.rows import Row
from distillability.types import SPLITS, Grade, Prompt, Split

__all__ = ["Data"]

_SHOWN_PROBLEMS = 10


class Data(Task):
    """A task made of rows; a prompt's split is a hash of its text, and of rows with the same prompt the first counts.

    Args:
        path: what the rows are of, for messages.
        prompt_template: text with {column} fields, in the place of `prompt_column`. A column of choices, a list of texts or a
            {label, text} pair of lists, becomes lines `A. …`.
        answer_column: None where there are no answers.
        threshold: the score that means right, where the grader gives numbers.

    Raises:
        UserError: rows that are none or lack a prompt or an answer, all at once (the first ten); no rows; a split without any.
    """

    def __init__(
        self,
        name: str,
        path: str,
        rows: Iterable[Row | Problem],
        grader: Grader,
        *,
        prompt_column: str = "prompt",
        prompt_template: str | None = None,
        answer_column: str | None = "answer",
        threshold: float | None = None,
        chance: float = 0.0,
    ):
        self.name, self.path, self.grader, self.threshold, self.chance = name, path, grader, threshold, chance
        self.knows_gold = grader.knows_gold
        self._columns, self._template, self._answer_column = [prompt_column], prompt_template, answer_column
        if prompt_template is not None:
            self._columns = list(dict.fromkeys(field for _, field, _, _ in Formatter().parse(prompt_template) if field))
        if answer_column is None and grader.needs_answer:
            raise UserError.single(path, f"the grader {grader.name} needs answers", "set tasks.answer_column, or take another grader")
        self._by_split = self._split(self._read(rows))

    def _read(self, rows: Iterable[Row | Problem]) -> list[Prompt]:
        """The distinct prompts."""
        prompts: dict[str, Prompt] = {}
        problems = []
        for row in rows:
            found = row if isinstance(row, Problem) else self._prompt(row)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                prompts.setdefault(found.text, found)
        if problems:
            rest = len(problems) - _SHOWN_PROBLEMS
            raise UserError(problems[:_SHOWN_PROBLEMS] + [Problem(self.path, f"{rest} more rows like these")] * (rest > 0))
        if not prompts:
            raise UserError.single(self.path, "the task is empty: no rows", "add at least one row for each split")
        return list(prompts.values())

    def _prompt(self, row: Row) -> Prompt | Problem:
        texts = {column: _written(row.values.get(column)) for column in self._columns}
        lacking = [column for column, text in texts.items() if text is None]
        asked = "" if lacking else (str(texts[self._columns[0]]) if self._template is None else self._template.format_map(texts)).strip()
        if not asked and not lacking:
            lacking = self._columns[:1]
        answer = "" if self._answer_column is None else _plain(row.values.get(self._answer_column)) or ""
        if self._answer_column is not None and not answer.strip():
            lacking.append(self._answer_column)
        if not lacking:
            return Prompt(id=row.id, text=asked, answer=answer)
        found = ", ".join(map(repr, row.values)) or "none"
        asking = "tasks.prompt_column" if self._template is None else "tasks.prompt_template"
        return Problem(row.where, f"no text in column {lacking[0]!r}; columns found: {found}", f"set {asking} / tasks.answer_column")

    def _split(self, prompts: Sequence[Prompt]) -> dict[Split, list[Prompt]]:
        by_split: dict[Split, list[Prompt]] = {split: [] for split in SPLITS}
        for prompt in sorted(prompts, key=lambda prompt: sha256(prompt.text.encode()).digest()):  # files are sorted by subject or level
            by_split[split_of(prompt.text)].append(prompt)
        empty = [split for split in SPLITS if not by_split[split]]
        if empty:
            raise UserError.single(
                self.path,
                f"{len(prompts)} distinct prompts leave no prompt for {', '.join(empty)}",
                "add rows: prompts fall to calibrate / query / validate / test as 30 / 40 / 10 / 20 %",
            )
        return by_split

    def stream(self, split: Split) -> Iterator[Prompt]:
        return iter(self._by_split[split])

    def grade(self, prompt: Prompt, text: str) -> Grade:
        """What the grader says of one text.

        Raises:
            UserError: the grader raises, or says nothing that means right or wrong; it names the row.
        """
        where = f"grader {self.grader.name}, on row {prompt.id} of {self.path}"
        try:
            said: Any = self.grader.judge(prompt.text, None if self._answer_column is None else prompt.answer, text)
        except UserError:
            raise
        except Exception as error:  # a grader may be the user's own, and raise anything
            raise UserError.single(where, f"raised {type(error).__name__}: {error}", "fix the grader, or that row") from error
        said = said.item() if hasattr(said, "item") else said  # numbers of numpy and torch
        if isinstance(said, Grade):
            return said
        if isinstance(said, bool):
            return Grade(right=said)
        if not isinstance(said, int | float) or math.isnan(said):
            raise UserError.single(where, f"returned {said!r}", "return True or False, a number, or a distillability.types.Grade")
        if self.threshold is None:
            raise UserError.single(where, f"returned the number {said}", "say in tasks.threshold which number means right")
        return Grade(right=said >= self.threshold)

    def gold_answer(self, prompt: Prompt) -> str | None:
        return None if self._answer_column is None else self.grader.gold(prompt.answer)

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        return ("", "not " + prompt.answer + "7") if self.grader.needs_answer else ()


def _plain(value: Any) -> str | None:
    """A text or a number as a text; None of anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _written(value: Any) -> str | None:
    """A column as a prompt shows it: a text, a number, or choices as lettered lines; None of anything else."""
    labels: Sequence[Any] = ascii_uppercase
    if isinstance(value, dict) and set(value) == {"label", "text"}:
        labels, value = value["label"], value["text"]
        if not isinstance(labels, list) or not isinstance(value, list) or len(labels) != len(value):
            return None
    if not isinstance(value, list):
        return _plain(value)
    choices = [_plain(item) for item in value]
    if not choices or None in choices or len(choices) > len(labels):
        return None
    return "\n".join(f"{label}. {choice}" for label, choice in zip(labels, choices, strict=False))
