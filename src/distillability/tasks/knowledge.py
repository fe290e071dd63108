"""Questions of several hops over real facts: which chemical element comes next, in one order after another.

The facts are in ``elements.json`` (its origin and licence stand there; ``scripts/make_elements.py`` makes it): 21 elements, one for every
initial letter that has one, and five of their properties. A property puts the elements in an order, and a relation is the next or the
last before in such an order; at the end of the order it goes on at the other end. That is ten relations and 210 facts.

    + -   next higher, next lower atomic number          [ ]   next lower, next higher first ionisation energy
    ( )   next lower, next higher density                { }   next lower, next higher abundance in the crust
    ^ _   next higher, next lower melting point

A prompt is an element and a chain of relations, ``Fe+)_[``, neighbouring relations being of different properties. Each step has its number,
the element reached so far and the relation asked of it, so that a result stands at the beginning of the next step. Every relation is a
permutation of the elements: all answers are equally likely and no guess beats 1/21. The modes are those of `modes.py` and the answer alone.

    easy          >1Fe+2Zn)3In_4Rb[#Ne
    hard          >4Rb[3In_2Zn)1Fe+#Ne
    remark        >so:1Fe+2Zn)…
    answer only   #Ne

After iron comes zinc by atomic number, then indium by density, rubidium is the next lower in melting point, and neon stands at the other
end of the order of ionisation energies, of which rubidium has the least.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from distillability.tasks.modes import CrossedModes
from distillability.types import Prompt

__all__ = ["Knowledge", "facts"]

# Property: the signs for its next higher and its next lower value.
_RELATIONS = {
    "atomic_number": ("+", "-"),
    "density": (")", "("),
    "melting_point": ("^", "_"),
    "ionisation_energy": ("]", "["),
    "abundance": ("}", "{"),
}
_PROPERTY_OF = {sign: name for name, signs in _RELATIONS.items() for sign in signs}
_SIGNS = "".join(_PROPERTY_OF)
_UPWARD = frozenset(up for up, _ in _RELATIONS.values())


@cache
def facts() -> dict[str, dict[str, str]]:
    """Element → element, by the sign of the relation."""
    elements = json.loads((files("distillability.tasks") / "elements.json").read_text(encoding="utf-8"))["elements"]
    found = {}
    for name, (up, down) in _RELATIONS.items():
        order = [element["symbol"] for element in sorted(elements, key=lambda element: element[name])]
        above = dict(zip(order, order[1:] + order[:1], strict=True))
        found[up] = above
        found[down] = {value: key for key, value in above.items()}
    return found


class Knowledge(CrossedModes):
    """Chains of `hops` relations; 21 · 10 · 8^(hops - 1) prompts in all, 107,520 for four hops."""

    modes = (*CrossedModes.modes, "answer_only")
    step_form = re.compile(rf"(\d)[A-Z][a-z]([{re.escape(_SIGNS)}])")
    answer_form = "[A-Z][a-z]"
    value_at = (1, 3)

    def __init__(self, name: str = "knowledge", hops: int = 4):
        super().__init__(name, hops)
        self.elements = sorted(facts()["+"])
        self.chance = 1 / len(self.elements)
        self.alphabet = "".join(sorted({*"0123456789>#so:", *_SIGNS, *"".join(self.elements)}))

    @property
    def n_prompts(self) -> int:
        return int(len(self.elements) * len(_SIGNS) * (len(_SIGNS) - 2) ** (self.depth - 1))

    def draw(self, rng: random.Random, depth: int | None = None) -> Prompt:
        element, relations = rng.choice(self.elements), rng.choice(_SIGNS)
        while len(relations) < (depth or self.depth):
            sign = rng.choice(_SIGNS)
            if _PROPERTY_OF[sign] != _PROPERTY_OF[relations[-1]]:  # next higher and then next lower would be no hop at all
                relations += sign
        return self._prompt(element, relations)

    def _prompt(self, element: str, relations: Sequence[str]) -> Prompt:
        text, reached = element + "".join(relations), element
        for sign in relations:
            reached = facts()[sign][reached]
        return Prompt(id=text, text=text, answer=reached, meta={"start": element, "relations": list(relations)})

    def work(self, prompt: Prompt, error_at: int | None = None) -> tuple[list[str], str]:
        element, steps = prompt.meta["start"], []
        for index, sign in enumerate(prompt.meta["relations"]):
            steps.append(f"{index + 1}{element}{sign}")
            element = facts()[sign][element]
            if index == error_at:
                element = self._another(element, by=1 + sum(map(ord, prompt.text)) % (len(self.elements) - 1))
        return steps, element

    def _another(self, element: str, by: int) -> str:
        return self.elements[(self.elements.index(element) + by) % len(self.elements)]

    def asked(self, prompt: Prompt) -> list[tuple[str, str]]:
        return [(str(index), sign) for index, sign in enumerate(prompt.meta["relations"], start=1)]

    def leans_hard(self, prompt: Prompt) -> bool:
        return prompt.meta["relations"][0] in _UPWARD

    def other_answer(self, prompt: Prompt) -> str:
        return self._another(prompt.answer, by=1)

    def near_misses(self, prompt: Prompt) -> Sequence[str]:
        return (*super().near_misses(prompt), "#" + prompt.answer[0], "#" + prompt.answer.upper(), "#" + prompt.answer.lower())
