"""`distillability cut`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillability.cli.console import guarded, say, say_json
from distillability.cli.execute import require_torch
from distillability.cli.options import Debug, Json, Quiet

__all__ = ["cut"]

Layers = Annotated[
    str | None,
    typer.Option(metavar="N or I,J,…", help="How many layers (evenly spaced), or their indices from 0. Default: all.", show_default=False),
]

VocabularyOf = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Questions and answers as JSON Lines; only the tokens they need are kept. Default: the whole vocabulary.",
        show_default=False,
    ),
]


def cut(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, folder or .gguf file.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder; it must not exist.", show_default=False)],
    layers: Layers = None,
    vocabulary_of: VocabularyOf = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a smaller model: fewer layers or a smaller vocabulary."""
    with guarded(debug=debug, as_json=json):
        from distillability.errors import UserError

        require_torch("cutting a model")
        if out.exists():
            raise UserError.single(str(out), "it exists already", "name a folder that does not")
        wanted = None if layers is None else _parse(layers)
        from distillability.models.cut import cut as cut_model
        from distillability.models.vocabulary import read_chats

        done = cut_model(model, out, wanted, chats=None if vocabulary_of is None else read_chats(vocabulary_of))
        if json:
            layers_and_tokens = {"layers": done.layers, "of_layers": done.of_layers, "tokens": done.n_tokens, "of_tokens": done.of_tokens}
            say_json({"folder": str(done.folder), **layers_and_tokens, "weights": done.n_weights})
        elif not quiet:
            say(str(done))


def _parse(layers: str) -> int | list[int]:
    from distillability.errors import UserError

    try:
        found = [int(part) for part in layers.split(",")]
    except ValueError:
        fix = "a number of layers, as 12, or their numbers, as 0,5,11"
        raise UserError.single(f"--layers {layers}", "not whole numbers", fix) from None
    return found if "," in layers else found[0]
