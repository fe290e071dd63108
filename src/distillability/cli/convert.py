"""`distillability convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillability.cli.console import guarded, say, say_json
from distillability.cli.execute import require_torch
from distillability.cli.options import Debug, Json, Quiet

__all__ = ["convert"]


def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .gguf file.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder; it must not exist.", show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a GGUF file into a Hugging Face model folder."""
    with guarded(debug=debug, as_json=json):
        from distillability.errors import UserError

        require_torch("converting a model")
        if folder.exists():
            raise UserError.single(str(folder), "it exists already", "name a folder that does not")
        from distillability.models.convert import convert as convert_file

        done = convert_file(model, folder)
        if json:
            say_json({"folder": str(done.folder), "architecture": done.architecture, "weights": done.n_weights, "fixed": done.fixed})
        elif not quiet:
            say(str(done))
