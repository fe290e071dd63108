"""`distillability validate`."""

from __future__ import annotations

from distillability.cli.console import guarded, say, say_json
from distillability.cli.options import Debug, Json, Quiet, RecipeFile, Set

__all__ = ["validate"]


def validate(
    recipe: RecipeFile,
    set_: Set = [],  # noqa: B006 - typer reads the default and never changes it
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a recipe, its models and data before computing."""
    with guarded(debug=debug, as_json=json):
        from distillability.config.load import read_recipe, recipe_digest
        from distillability.config.sweep import derive
        from distillability.errors import UserError
        from distillability.stages.preflight import find_problems

        checked, problems = read_recipe(recipe, set_)
        if checked is not None:
            problems += find_problems(checked)
            if "sweep" in checked.model_fields_set:
                problems += [problem for problem in find_problems(derive(checked)) if problem not in problems]
        if problems or checked is None:
            raise UserError(problems)
        if json:
            say_json({"problems": [], "name": checked.name, "recipe_digest": recipe_digest(checked)})
        elif not quiet:
            say(f"{recipe}: no problems found (recipe {recipe_digest(checked)[:12]})")
