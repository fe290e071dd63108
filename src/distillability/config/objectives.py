"""The table of objectives: each one's name, formula and needs, without torch. Recipes, checks, plans and the registry derive from it.

An objective is one of `OBJECTIVE_RECORDS`, or a class of the user's own, `module:Class`. What computes the loss of a record lies in
`ops/divergences.py`, or in `objectives/` where it is no divergence.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from distillability.config.nearest import nearest
from distillability.config.own_code import OWN_CODE, import_own, is_own_code
from distillability.config.strict import Strict
from distillability.errors import UserError
from distillability.types import RENAMED_OBJECTIVES

__all__ = ["OBJECTIVE_RECORDS", "ObjectiveName", "ObjectiveRecord", "ObjectiveSettings", "own_objective", "record_of"]


class ObjectiveSettings(Strict):
    """The settings of the objectives: keys of a recipe's [distill]."""

    jsd_weight: float = Field(0.5, gt=0, lt=1, description="Weight of the teacher in the mixture.")
    skew: float = Field(0.1, gt=0, lt=1, description="λ of the skewed divergences: how much of the first distribution is mixed in.")
    top_k: int = Field(32, ge=1, description="The teacher's likeliest tokens that `top_k_*` see.")
    top_k_rest: bool = Field(True, description="`top_k_*` see the mass of all others as one class; false: the k are renormalised.")
    uld_weight: float = Field(1.5, ge=0, description="Of the distance of sorted probabilities in `uld`, beside cross-entropy.")

    @model_validator(mode="after")
    def _something_to_compare(self) -> ObjectiveSettings:
        if self.top_k == 1 and not self.top_k_rest:
            raise ValueError("top_k = 1 without top_k_rest leaves one token, of which both models are certain")
        return self


@dataclass(frozen=True)
class ObjectiveRecord:
    """What is known of an objective before anything is computed.

    Attributes:
        name: as recipes and results have it.
        formula: the loss of one token, in nats; p is the teacher's next-token distribution, q the student's.
        needs_teacher_logits: whether it reads the teacher's logits, and not its texts alone.
        crosses_tokenizers: whether teacher and student may have tokenizers of their own.
        settings: by the parameter of its function or class, the key of [distill] that it is set by.
    """

    name: str
    formula: str
    needs_teacher_logits: bool = True
    crosses_tokenizers: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def works_on_policy(self) -> bool:
        """Whether there is a teacher signal on the student's own samples: its logits, on the same tokens."""
        return self.needs_teacher_logits and not self.crosses_tokenizers


_TOP_K = {"k": "top_k", "rest": "top_k_rest"}
OBJECTIVE_RECORDS: dict[str, ObjectiveRecord] = {
    record.name: record
    for record in (
        ObjectiveRecord("seqkd", "−log q(token of the teacher's text)", needs_teacher_logits=False, crosses_tokenizers=True),
        ObjectiveRecord("forward_kl", "KL(p‖q)"),
        ObjectiveRecord("reverse_kl", "KL(q‖p)"),
        ObjectiveRecord("jsd", "π KL(p‖m) + (1−π) KL(q‖m), m = πp + (1−π)q", settings={"teacher_weight": "jsd_weight"}),
        ObjectiveRecord("skewed_forward_kl", "KL(p‖λp + (1−λ)q)", settings={"skew": "skew"}),
        ObjectiveRecord("skewed_reverse_kl", "KL(q‖(1−λ)p + λq)", settings={"skew": "skew"}),
        ObjectiveRecord("total_variation", "½ Σ |p − q|"),
        ObjectiveRecord("top_k_forward_kl", "KL(p‖q) on the teacher's likeliest tokens", settings=_TOP_K),
        ObjectiveRecord("top_k_reverse_kl", "KL(q‖p) on the teacher's likeliest tokens", settings=_TOP_K),
        ObjectiveRecord(
            "uld",
            "−log q(token) + 1.5 Σ |p − q| of the probabilities in falling order",
            crosses_tokenizers=True,
            settings={"weight": "uld_weight"},
        ),
    )
}


def record_of(objective: str) -> ObjectiveRecord:
    """The record of an objective, by name or `module:Class`.

    Raises:
        UserError: there is no such objective, or the class cannot be one.
    """
    if objective in OBJECTIVE_RECORDS:
        return OBJECTIVE_RECORDS[objective]
    if not is_own_code(objective):
        names = ", ".join(OBJECTIVE_RECORDS)
        raise UserError.single(f"objective {objective}", "there is no such objective", f"use one of {names}, or module:Class")
    own = own_objective(objective)
    formula = (type(own).__doc__ or objective).strip().splitlines()[0]
    return ObjectiveRecord(objective, formula, own.needs_teacher_logits, own.crosses_tokenizers)


def own_objective(reference: str) -> Any:
    """An instance of a class of the user's own, `module:Class`, made without arguments.

    Raises:
        UserError: it cannot be imported or made, lacks what `objectives.Objective` has, or cannot be called as one.
    """
    where, see = f"objective {reference}", "CONTRIBUTING.md shows one, under `Adding things`"
    made = import_own(where, reference)
    if not isinstance(made, type):
        raise UserError.single(where, f"is not a class but a {type(made).__name__}", see)
    try:
        objective: Any = made()
    except Exception as error:  # the class is the user's, and may raise anything
        what = f"cannot be made without arguments: {type(error).__name__}: {error}"
        raise UserError.single(where, what, "give each of its parameters a default") from error
    for fact in ("needs_teacher_logits", "crosses_tokenizers"):
        if not isinstance(getattr(objective, fact, None), bool):
            raise UserError.single(where, f"is not an objective: it has no {fact} that is True or False", see)
    try:
        inspect.signature(objective).bind(student_logits=None, teacher_logits=None, target_ids=None)
    except TypeError as error:
        what = f"cannot be called as f(student_logits=…, teacher_logits=…, target_ids=…): {error}"
        raise UserError.single(where, what, "give its __call__ these three arguments") from error
    return objective


def _known(name: str) -> str:
    if name in OBJECTIVE_RECORDS or is_own_code(name):
        return name
    if name in RENAMED_OBJECTIVES:
        raise ValueError(f"the objective {name!r} has a new name", f"write {RENAMED_OBJECTIVES[name]!r}")
    guess = nearest(name, OBJECTIVE_RECORDS)
    what = f"{name!r} is none of {', '.join(OBJECTIVE_RECORDS)}, nor module:Class"
    raise ValueError(what, f"did you mean {guess!r}?" if guess else "use one of those")


ObjectiveName = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema({"anyOf": [{"enum": [*OBJECTIVE_RECORDS]}, {"type": "string", "pattern": OWN_CODE, "format": "module:Class"}]}),
]
