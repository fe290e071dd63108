"""Errors that a person can act on.

Everything that is the user's to fix is a `UserError`: it says what is wrong, where, and how to fix it,
and the command line turns it into one message and exit code 2. Any other exception is a bug of ours (exit code 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Problem", "UserError"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is, what it is, and how to fix it."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        return f"{text}\n    fix: {self.fix}" if self.fix else text


class UserError(Exception):
    """One or several problems in what the user gave us."""

    def __init__(self, problems: Problem | Sequence[Problem]):
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def brief(self) -> str:
        """All problems in one line, without how to fix them."""
        return "; ".join(f"{problem.where}: {problem.what}" for problem in self.problems)

    @classmethod
    def single(cls, where: str, what: str, fix: str = "") -> UserError:
        """A `UserError` of one problem."""
        return cls(Problem(where, what, fix))

    def __reduce__(self) -> tuple[type[UserError], tuple[tuple[Problem, ...]]]:
        # An exception is pickled by its message; this one, coming from a worker process, must bring its problems.
        return type(self), (self.problems,)
