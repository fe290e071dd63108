"""The verbs that run stages: `distillability run` for all of them, and one verb a stage. They differ in two words, so they are a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distillability.cli.execute import execute
from distillability.cli.options import Debug, Force, Json, Out, Quiet, Resume, Set, Target
from distillability.stages import STAGES

__all__ = ["STAGE_VERBS", "stage_verb"]

# verb -> its help, the stages it runs. `report` takes a folder alone, and has a file of its own.
STAGE_VERBS: dict[str, tuple[str, Sequence[str]]] = {
    "run": ("Calibrate, distil, evaluate and report; diagnose where the recipe has a [diagnose] section.", STAGES),
    "diagnose": (
        "Name the traps that await students, and the symptoms of those that are there.",
        ("diagnose", "report"),
    ),
    "calibrate": ("Calibrate the teachers.", ("calibrate",)),
    "distill": ("Buy the traces and distil the students.", ("distill",)),
    "evaluate": ("Measure teachers and students.", ("evaluate",)),
}


def stage_verb(verb: str) -> Callable[..., None]:
    """The command behind one verb of the table."""
    _, stages = STAGE_VERBS[verb]

    def command(
        recipe: Target,
        out: Out = None,
        set_: Set = [],  # noqa: B006 - typer reads the default and never changes it
        resume: Resume = False,
        force: Force = False,
        quiet: Quiet = False,
        json: Json = False,
        debug: Debug = False,
    ) -> None:
        execute(verb, stages, recipe, out=out, overrides=set_, resume=resume, force=force, quiet=quiet, as_json=json, debug=debug)

    return command
