"""What a person sees: messages, errors, and no control sequence that came in with somebody's data."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer

from distillability.errors import UserError

__all__ = ["FAILED", "INTERRUPTED", "MISTAKE", "guarded", "printable", "say", "say_json"]

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

# C0 and C1 controls but line feed and tab, marks that reorder or hide text, line separators, and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with every character that a terminal would obey, or that would mislead the eye, written as an escape."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print text that may hold somebody else's data."""
    typer.echo(printable(text), err=to_stderr)


def say_json(value: Any) -> None:
    """Print one JSON value on one line; control characters and all that is not ASCII are escaped by JSON itself."""
    typer.echo(json.dumps(value, allow_nan=False))


@contextmanager
def guarded(*, debug: bool = False, as_json: bool = False, on_interrupt: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn what goes wrong inside into one message and an exit code.

    Args:
        debug: show the traceback of a user's mistake too.
        as_json: print a user's mistakes as JSON on standard output.
        on_interrupt: says how to go on after Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        _report_mistakes(error, debug=debug, as_json=as_json)
        raise typer.Exit(MISTAKE) from None
    except KeyboardInterrupt:
        say(f"\nstopped. {on_interrupt() if on_interrupt else ''}".rstrip(), to_stderr=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        raise typer.Exit(FAILED) from None
    except Exception as error:
        # A failure that is not the user's to fix is shown whole: it may have taken hours to reach.
        say(traceback.format_exc(), to_stderr=True)
        say(f"failed: {type(error).__name__}: {error}", to_stderr=True)
        say("This is not a mistake in what you gave. Please report it with the lines above.", to_stderr=True)
        raise typer.Exit(FAILED) from None


def _report_mistakes(error: UserError, *, debug: bool, as_json: bool) -> None:
    if debug:
        say(traceback.format_exc(), to_stderr=True)
    if as_json:
        say_json({"problems": [asdict(problem) for problem in error.problems]})
        return
    count = len(error.problems)
    title = "there is 1 problem" if count == 1 else f"there are {count} problems"
    say("\n".join([f"{title}:", *(f"  {_indented(str(problem))}" for problem in error.problems)]), to_stderr=True)


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
