"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Debug", "Folder", "Force", "Json", "Out", "Quiet", "RecipeFile", "Resume", "Set", "Target"]

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.", show_default=False)]
Folder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run.", show_default=False)]
Target = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file, or the folder of a run to continue.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/NAME.", show_default=False)]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key, for example tasks.maths.queries=200, or all keys of a TOML file given by its path. Repeatable.",
        show_default=False,
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")]
Force = Annotated[bool, typer.Option("--force", help="Calibrate even if the proxy fails its admission test (recorded in the results).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of input errors too.")]
