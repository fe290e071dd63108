"""A sweep: an ordinary recipe with a teacher for every value of the knob, and students of each; every stage runs it as it runs any other.

Light, for the command line derives and checks it before anything else is loaded.
"""

from __future__ import annotations

from distillability.config.recipe import Arm, Recipe, Teacher

__all__ = ["DERIVED", "derive", "is_sweep", "knob_source"]

DERIVED = ("calibrate.teachers", "distill.arms")  # the keys that a sweep writes itself


def knob_source(knob: float) -> str:
    """The name of a sweep's teacher, as `knob_-0.3`."""
    return f"knob_{knob:g}"


def derive(recipe: Recipe) -> Recipe:
    """The recipe with the teachers and arms that its `sweep` section asks for, instead of its own. Deriving it again changes nothing."""
    sweep = recipe.sweep
    knobs = sorted(sweep.knobs)
    arms = [Arm(sources=["plain", *map(knob_source, knobs)], objectives=sweep.objectives, seeds=sweep.seeds)]
    further = [objective for objective in dict.fromkeys(sweep.ends_objectives) if objective not in sweep.objectives]
    if further:
        arms.append(Arm(sources=["plain", knob_source(knobs[0]), knob_source(knobs[-1])], objectives=further, seeds=sweep.seeds))
    teachers = {knob_source(knob): Teacher(knob=knob) for knob in knobs}
    return recipe.model_copy(
        update={
            "name": recipe.name if recipe.name.endswith("sweep") else f"{recipe.name}-sweep",
            "calibrate": recipe.calibrate.model_copy(update={"teachers": teachers}),
            "distill": recipe.distill.model_copy(update={"arms": arms}),
        }
    )


def is_sweep(recipe: Recipe) -> bool:
    """Whether a run's recipe was derived for a sweep."""
    return derive(recipe) == recipe
