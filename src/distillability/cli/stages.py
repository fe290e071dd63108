"""The verbs that run stages: `distillability run` for all of them, one verb a stage otherwise; one table, since little differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distillability.cli.execute import execute
from distillability.cli.options import Debug, Force, Json, Out, Quiet, Resume, Set, Target
from distillability.stages import STAGES

__all__ = ["STAGE_VERBS", "stage_verb"]

# verb -> its help, the stages it runs. `report` takes a folder alone, and has a file of its own.
STAGE_VERBS: dict[str, tuple[str, Sequence[str]]] = {
    "run": ("Run a whole recipe, from calibration to the report.", STAGES),
    "diagnose": ("Measure the traps of a distillation, and the symptoms.", ("diagnose", "report")),
    "calibrate": ("Calibrate the teachers by reinforcement fine-tuning.", ("calibrate",)),
    "distill": ("Sample teacher traces and train the students.", ("distill",)),
    "evaluate": ("Evaluate teachers and students, with intervals.", ("evaluate",)),
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
