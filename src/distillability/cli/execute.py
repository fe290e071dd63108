"""From a recipe or a run folder to running stages: the body of the verbs in `cli/stages.py`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from distillability.cli.console import guarded, say
from distillability.errors import Problem, UserError

if TYPE_CHECKING:
    from distillability.config.recipe import Recipe
    from distillability.runs.folder import RunFolder

__all__ = ["execute", "prepare", "require_torch"]


def execute(
    verb: str,
    stages: Sequence[str],
    target: Path,
    *,
    out: Path | None,
    overrides: Sequence[str],
    resume: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    debug: bool,
    derive: Callable[[Recipe], Recipe] | None = None,
) -> None:
    """Check everything, make or reopen the run folder, run the stages, and say what came of it.

    Args:
        derive: what is run instead of the recipe as it is written.
    """
    folder: RunFolder | None = None

    def how_to_go_on() -> str:
        if folder is None:
            return "Nothing has been written."
        return f"What is finished is kept; continue with:\n    distillability {verb} {shlex.quote(str(folder.path))} --resume"

    with guarded(debug=debug, as_json=as_json, on_interrupt=how_to_go_on):
        from distillability.runs.processes import is_main

        quiet = quiet or as_json or not is_main()
        folder = prepare(target, out=out, overrides=overrides, resume=resume, force=force, quiet=quiet, derive=derive)
        if not quiet:
            say(f"run folder: {folder.path}")
        from distillability.stages.run import run

        run(folder.recipe, folder, stages=stages, quiet=quiet)
        if is_main() and (as_json or not quiet):
            from distillability.cli.show import summarise

            summarise(folder, as_json=as_json)


def require_torch(what: str) -> None:
    """Raise where the package was installed without what computes.

    Raises:
        UserError: torch is not installed.
    """
    if find_spec("torch") is None:
        raise UserError.single("torch", f"not installed, and {what} needs it", "pip install 'distillability[train]'")


def prepare(
    target: Path,
    *,
    out: Path | None,
    overrides: Sequence[str],
    resume: bool,
    force: bool,
    quiet: bool = False,
    derive: Callable[[Recipe], Recipe] | None = None,
) -> RunFolder:
    """The run folder of a recipe or of a run, once nothing is known to be wrong and every GGUF file has been converted.

    Raises:
        UserError: all problems of the recipe, of its models and data, and of the folder.
    """
    from distillability.config.load import read_recipe
    from distillability.config.sweep import DERIVED
    from distillability.runs.folder import RunFolder, folder_problems
    from distillability.runs.processes import is_main, wait_for_all
    from distillability.stages.preflight import find_problems

    require_torch("running a recipe")
    if target.is_dir():
        RunFolder.open(target)
        if out is not None and out.resolve() != target.resolve():
            raise UserError.single(f"--out {out}", f"{target} is a run folder, and is continued where it is", "leave --out out")
        target, out, resume = target / "recipe.json", target, True
    recipe, problems = read_recipe(target, [*overrides, *(["calibrate.force=true"] if force else [])])
    if derive is not None:
        recipe = recipe and derive(recipe)
        problems += [_replaced(override) for override in overrides if override.strip().startswith(DERIVED)]
    path = out or Path("runs") / (recipe.name if recipe else "")
    if not is_main():  # process 0 checks, says what is wrong and makes the folder
        wait_for_all()
        return RunFolder.open(path)
    if recipe is not None:
        broken = bool(problems)
        problems += find_problems(recipe)
        if not (broken and resume):  # a recipe with holes cannot be compared with the run's
            problems += folder_problems(path, recipe, resume=resume)
    if problems or recipe is None:
        raise UserError(problems)
    _convert_models(recipe, (lambda line: None) if quiet else say)
    folder = RunFolder.create(path, recipe, resume=resume, command=["distillability", *sys.argv[1:]])
    wait_for_all()
    return folder


def _convert_models(recipe: Recipe, tell: Callable[[str], None]) -> None:
    """Convert the GGUF files that a recipe names before any of its processes asks for one."""
    from distillability.models.gguf import is_gguf

    named = dict.fromkeys(reference for task in recipe.tasks for reference in task.models.values())
    files = [reference for reference in named if is_gguf(reference)]
    if files:
        from distillability.models.convert import as_folder

        for reference in files:
            as_folder(reference, tell)


def _replaced(override: str) -> Problem:
    where, what = f"--set {override}", "a sweep makes its own teachers and arms"
    return Problem(where, what, "use --knobs, or sweep.objectives, sweep.ends_objectives and sweep.seeds (`distillability schema sweep`)")
