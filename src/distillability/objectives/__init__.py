"""Distillation objectives: what recipes name, built from the table in `config/objectives.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from distillability.config.objectives import OBJECTIVE_RECORDS, ObjectiveSettings, record_of
from distillability.objectives.base import Objective
from distillability.objectives.divergence import ByDivergence
from distillability.objectives.own import OwnObjective
from distillability.objectives.seqkd import SeqKD
from distillability.objectives.uld import ULD
from distillability.ops import divergences
from distillability.ops.support import on_top_k

__all__ = ["OBJECTIVES", "Objective", "ObjectiveSettings", "build_objective"]

_CLASSES: dict[str, Callable[..., Objective]] = {"seqkd": SeqKD, "uld": ULD}  # any other name is a divergence's
_TOP_K = "top_k_"  # before the name of a divergence: on the teacher's likeliest tokens
_DEFAULTS = ObjectiveSettings()


def build_objective(name: str, settings: ObjectiveSettings = _DEFAULTS) -> Objective:
    """An objective of the table by its name, or one of the user's own by `module:Class`.

    Raises:
        UserError: there is no such objective, or the class cannot be one.
    """
    record = record_of(name)
    if name not in OBJECTIVE_RECORDS:
        return OwnObjective(record)
    parameters = {parameter: getattr(settings, key) for parameter, key in record.settings.items()}
    if name in _CLASSES:
        return _CLASSES[name](record, **parameters)
    return ByDivergence(record, partial(_divergence(name), **parameters))


def _divergence(name: str) -> Callable[..., torch.Tensor]:
    whole: Callable[..., torch.Tensor] = getattr(divergences, name.removeprefix(_TOP_K))
    return partial(on_top_k, whole) if name.startswith(_TOP_K) else whole


OBJECTIVES: dict[str, Objective] = {name: build_objective(name) for name in OBJECTIVE_RECORDS}
