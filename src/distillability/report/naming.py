"""How every source is called, ordered and coloured: the same in each table and each picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distillability.config.sources import CEILINGS, FREE_ALTERNATIVES, SWEEP, THIEVES, parent_of

__all__ = ["MARKERS", "Kind", "Look", "colour", "describe", "kind_of", "label", "look", "sort_key", "swatch"]

Kind = Literal["before", "calibrated", "plain", "free", "ceiling", "elicitation", "control"]

# Okabe and Ito's palette: told apart with every common kind of colour blindness, and by lightness in grey print.
_DOWN, _UP, _PLAIN, _ZERO, _CONTROL = "#c44e00", "#0068a8", "#1f1f1f", "#8a5a9e", "#767676"

MARKERS = {"free": "s", "ceiling": "^", "control": "X", "before": "|"}  # by kind; dots for all others

_NAMED = {"distillable": 1.0, "undistillable": -1.0}  # where no row tells the knob, the name still tells its sign

_WAYS = {
    "_prefilled_oracle": "easy-mode prefill",
    "_prefilled": "generic prefill",
    "_few_shot": "few-shot",
    "_hot_likeliest_of_8": "temperature 1.5, likeliest of 8",
    "_likeliest_of_8": "likeliest of 8",
    "_hot": "temperature 1.5",
}
_CONTROLS = ("answer_only", "plain_worst_of_8", "length_only_up", "length_only_down", "plain_few_shot")
_LABELS = {
    SWEEP: "all values of the knob",
    "none": "student before",
    "plain_greedy": "plain, greedy",
    "plain_best_of_8": "plain, best of 8",
    "plain_worst_of_8": "plain, worst of 8",
    "answer_only": "plain, steps removed",
    "gold_answers": "gold answers, no teacher",
    "gold_steps": "gold steps, no teacher",
    "length_only_up": "length-only reward, up",
    "length_only_down": "length-only reward, down",
}
_ISOLATES = {
    "none": "where students start",
    "plain_greedy": "what the least varied answers teach",
    "plain_prefilled": "what a generic prompt does",
    "plain_prefilled_oracle": "knowing which mode is easy",
    "plain_best_of_8": "what selection by C does, without calibration",
    "plain_worst_of_8": "what selection against C does, without calibration",
    "plain_few_shot": "what examples in the prompt do",
    "plain_likeliest_of_8": "what choosing by a small model alone does",
    "plain_hot": "what more varied answers teach",
    "plain_hot_likeliest_of_8": "what choosing among more varied answers does",
    "answer_only": "what hiding the steps does",
    "gold_answers": "what data without a teacher does",
    "gold_steps": "worked solutions that no query buys",
    "length_only_up": "what longer or shorter texts alone do",
    "length_only_down": "what longer or shorter texts alone do",
}
_KINDS: dict[Kind, str] = {
    "before": "before training",
    "calibrated": "calibrated",
    "plain": "uncalibrated",
    "free": "free alternative",
    "ceiling": "ceiling, not free",
    "elicitation": "attack",
    "control": "control",
}


@dataclass(frozen=True)
class Look:
    """A source in a picture."""

    colour: str
    marker: str
    hollow: bool = False


def kind_of(source: str) -> Kind:
    """What a source is to the question; names outside the fixed controls are calibrated teachers."""
    if source == "none":
        return "before"
    if source == "plain":
        return "plain"
    if source in FREE_ALTERNATIVES:
        return "free"
    if source in CEILINGS:
        return "ceiling"
    if source in _CONTROLS:
        return "control"
    return "elicitation" if parent_of(source) else "calibrated"


def describe(source: str) -> dict[str, str]:
    """Label, kind in words, and what the source isolates."""
    kind = kind_of(source)
    isolates = _ISOLATES.get(source, "")
    if kind == "elicitation":
        isolates = "whether the easy mode is gone or only " + ("rare" if source.endswith(THIEVES) else "unasked")
    return {"source": source, "label": label(source), "kind": kind, "kind_label": _KINDS[kind], "isolates": isolates}


def label(source: str) -> str:
    """The source's name in running text."""
    if source in _LABELS:
        return _LABELS[source]
    parent = parent_of(source)
    if parent is None:
        return source
    return f"{parent}, {_WAYS[source.removeprefix(parent)]}"


def sort_key(source: str, knob: float | None) -> tuple[int, float, str]:
    """Teachers by knob (the plain one at 0, before `knob_0`), then what is free, what is not, and the attacks."""
    rank = {"calibrated": 0, "plain": 0, "free": 1, "control": 2, "ceiling": 3, "elicitation": 4, "before": 5}[kind_of(source)]
    place = (knob or 0.0) if rank in (0, 4) else 0.0
    return rank, place, "" if source == "plain" else source


def colour(source: str, knob: float | None = None) -> str:
    """Orange lowers, blue raises, black is the plain teacher, violet knob 0, grey a control; a weaker knob is paler."""
    kind = kind_of(source)
    if kind == "plain":
        return _PLAIN
    if kind == "elicitation":
        return colour(parent_of(source) or source, knob)
    if kind != "calibrated":
        return _CONTROL
    knob = knob if knob is not None else _NAMED.get(source, 0.0)
    if not knob:
        return _ZERO
    strength = 1.0 if source in ("distillable", "undistillable") else 1 + max(-2.0, min(0.0, math.log10(abs(knob)))) * 0.3
    return _towards_white(_UP if knob > 0 else _DOWN, 1 - strength)


def swatch(source: str, knob: float | None = None) -> str:
    """The class that gives a source its colour on the page, whose policy allows no style of an element's own."""
    kind = kind_of(source)
    if kind != "calibrated" or source == SWEEP:
        return kind if kind in ("plain", "elicitation") else "grey"
    knob = knob if knob is not None else _NAMED.get(source, 0.0)
    return "up" if knob > 0 else "down" if knob < 0 else "zero"


def _towards_white(base: str, share: float) -> str:
    parts = (int(base[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def look(source: str, knob: float | None = None) -> Look:
    """Colour and marker: dots for teachers, squares for what is free, triangles for ceilings, hollow dots for elicitations."""
    return Look(colour(source, knob), MARKERS.get(kind_of(source), "o"), hollow=kind_of(source) == "elicitation")
