"""The verbs put together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from distillability.cli.convert import convert
from distillability.cli.cut import cut
from distillability.cli.env import env
from distillability.cli.lab import lab
from distillability.cli.lm_eval import lm_eval
from distillability.cli.plan import plan
from distillability.cli.report import report
from distillability.cli.schema import schema
from distillability.cli.show import show
from distillability.cli.stages import STAGE_VERBS, stage_verb
from distillability.cli.sweep import sweep
from distillability.cli.validate import validate

__all__ = ["app", "main"]

app = typer.Typer(
    name="distillability",
    help="How well can a teacher LLM be distilled, and a knob for it: diagnose, calibrate, distil, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, (told, _) in STAGE_VERBS.items():
    app.command(name, help=told)(stage_verb(name))
for verb in (sweep, report, validate, plan, show, schema, lm_eval, convert, cut, env):
    app.command()(verb)
app.add_typer(lab, name="lab")


def _print_version(asked: bool) -> None:
    if asked:
        import distillability

        typer.echo(distillability.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)] = False,
) -> None:
    pass


def main() -> None:
    """The `distillability` command. Exit codes: 0 done, 1 failed, 2 a mistake in what was given, 130 stopped by Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character must not end a run
    app()
