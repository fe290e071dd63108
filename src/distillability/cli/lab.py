"""`distillability lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillability.cli.console import guarded, say
from distillability.cli.options import Debug, Quiet

__all__ = ["lab"]

lab = typer.Typer(help="The small models that ship with the package.", no_args_is_help=True, rich_markup_mode=None)


@lab.callback()
def _group() -> None:
    """Keeps `build` a verb of its own while it is the only one."""


@lab.command()
def build(
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: inside the package.", show_default=False)] = None,
    family: Annotated[str, typer.Option(help="Task family.")] = "maths",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the lab's models from fixed seeds."""
    with guarded(debug=debug):
        from distillability.lab.build import build as build_models
        from distillability.models.locate import lab_folder

        folder = out or lab_folder() / family
        build_models(family, folder, (lambda line: None) if quiet else say)
        if not quiet:
            say(f"models: {folder}")
