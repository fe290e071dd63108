"""`distillability sweep`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from distillability.cli.execute import execute
from distillability.cli.options import Debug, Force, Json, Out, Quiet, Resume, Set, Target
from distillability.stages import STAGES

if TYPE_CHECKING:
    from distillability.config.recipe import Recipe

__all__ = ["sweep"]

Knobs = Annotated[
    str | None,
    typer.Option(
        "--knobs", metavar="K,K,…", help="Knob values, for example -1,-0.1,0,0.1,1. Default: sweep.knobs of the recipe.", show_default=False
    ),
]


def sweep(
    recipe: Target,
    knobs: Knobs = None,
    out: Out = None,
    set_: Set = [],  # noqa: B006 - typer reads the default and never changes it
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe at several knob values and plot the response."""
    overrides = [*set_, *([] if knobs is None else [_override(knobs)])]
    common = {"resume": resume, "force": force, "quiet": quiet, "debug": debug}
    execute("sweep", STAGES, recipe, out=out, overrides=overrides, as_json=json, derive=_derive, **common)


def _derive(recipe: Recipe) -> Recipe:
    from distillability.config.sweep import derive

    return derive(recipe)


def _override(knobs: str) -> str:
    """`--knobs` as the key it sets; what is no number stays a text, which the recipe refuses by name."""
    return f"sweep.knobs=[{', '.join(map(_number, knobs.split(',')))}]" if knobs.strip() else "sweep.knobs=[]"


def _number(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return json.dumps(text.strip())
