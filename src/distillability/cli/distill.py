"""`distillability distill`."""

from __future__ import annotations

from distillability.cli.execute import execute
from distillability.cli.options import (
    Debug,
    Force,
    Json,
    Out,
    Quiet,
    Resume,
    Set,
    Target,
)

__all__ = ["distill"]


def distill(
    recipe: Target,
    out: Out = None,
    set_: Set = [],  # noqa: B006 - typer reads the default and never changes it
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Buy the traces and distil the students."""
    execute(
        "distill",
        ("distill",),
        recipe,
        out=out,
        overrides=set_,
        resume=resume,
        force=force,
        quiet=quiet,
        as_json=json,
        debug=debug,
    )
