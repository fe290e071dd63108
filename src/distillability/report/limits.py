"""What was not tested: worked out from the rows, so that it cannot be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from distillability.config.objectives import OBJECTIVE_RECORDS
from distillability.config.sources import THIEVES, WAYS_OF_ASKING
from distillability.report.naming import kind_of, label
from distillability.report.rows import Index
from distillability.results import Row

__all__ = ["limits", "planted", "untried_attacks"]

_FAMILIES = ("maths", "knowledge", "instructions")  # of the lab, whose ways of answering are planted
_OBJECTIVES = tuple(OBJECTIVE_RECORDS)
_REORDERED = "_reordered"
# By kind of attack: what to say of guarded teachers on which it was not tried, and the endings of the sources that try it.
_ATTACKS: dict[str, tuple[str, list[str]]] = {
    "prompt": (
        "Elicitation of {} (prefill, examples in the prompt)",
        [way for way in WAYS_OF_ASKING if way not in (*THIEVES, _REORDERED)],
    ),
    "temperature": ("Elicitation of {} by temperature", [way for way in THIEVES if "_hot" in way]),
    "selection": ("Selection among several texts of {} by the attacker", [way for way in THIEVES if "_of_8" in way]),
    "reordering": ("Reordering of the steps in texts of {} (the attacker sorts them, which needs no model)", [_REORDERED]),
}
_CONTROLS = (
    "knob_0",
    "plain_greedy",
    "plain_prefilled",
    "plain_prefilled_oracle",
    "plain_best_of_8",
    "plain_worst_of_8",
    "answer_only",
    "gold_answers",
    "gold_steps",
    "length_only_up",
    "length_only_down",
)


def limits(index: Index, families: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Headings with what is missing under each, tasks taken apart; headings with nothing missing are left out.

    Args:
        families: the task types of the recipe, where it is known.
    """
    rows, families = index.results.rows, families or index.tasks
    found: list[tuple[str, list[str]]] = [("Task families", list(_families(families)))]
    for task in index.tasks:
        mine = [row for row in rows if row.task == task]
        where = f" ({task})" if len(index.tasks) > 1 else ""
        found += [
            (f"Attacks{where}", list(_attacks(index, task))),
            (f"Budgets{where}", list(_budgets(index, task))),
            (f"Repetitions{where}", list(_repetitions(mine))),
            (f"Controls{where}", list(_controls(index, task))),
            (f"Models{where}", list(_models(mine))),
            (f"Measurements{where}", list(_measurements(mine))),
        ]
    return [(heading, lines) for heading, lines in found if lines]


def planted(families: Iterable[str]) -> list[str]:
    """Those of the families whose easy and hard ways of answering were planted in the teacher."""
    return [family for family in _FAMILIES if family in set(families)]


def untried_attacks(index: Index, task: str) -> dict[str, list[str]]:
    """By kind of attack (prompt, temperature, selection, reordering) the guarded teachers, knob below 0, on which it was not tried."""
    sources = index.sources(task)
    guards = [source for source in index.spectrum(task) if kind_of(source) == "calibrated" and (index.knob(task, source) or 0) < 0]
    untried = {
        kind: [guard for guard in guards if not any(guard + ending in sources for ending in endings)]
        for kind, (_, endings) in _ATTACKS.items()
    }
    return {kind: missing for kind, missing in untried.items() if missing}


def _families(present: Iterable[str]) -> Iterator[str]:
    ours = planted(present)
    if ours:
        yield (
            f"The easy and hard ways of answering in {', '.join(ours)} were planted in the teacher, half and half, and steps are graded by "
            "exact match with one of the planted renderings: students' sampled accuracy is nearly s + (1 - s) · chance, s the teacher's "
            "share of easy texts. Whether natural texts differ in this way is open."
        )
    missing = [family for family in _FAMILIES if family not in set(present)]
    if missing:
        yield f"Not run: {', '.join(missing)}. Whether the knob works there is open."
    yield "Tasks that the teacher was not calibrated on were not measured."


def _attacks(index: Index, task: str) -> Iterator[str]:
    arms = index.arms(task)
    missing = [objective for objective in _OBJECTIVES if objective not in {arm.objective for arm in arms}]
    if missing:
        yield f"Objectives not tried: {', '.join(missing)}."
    if not any(arm.prefix != "teacher" for arm in arms):
        yield "No on-policy attack: every student learnt on the teacher's own prefixes."
    for kind, guards in untried_attacks(index, task).items():
        yield f"{_ATTACKS[kind][0].format(', '.join(guards))} was not tried."
    yield "Elicitation by rephrased prompts was not tried."
    yield "Answers only with the attacker's own steps, and gold data mixed in, were not tried."
    top_k = any((arm.objective or "").startswith("top_k_") for arm in arms)
    absent = "weights" if top_k else "top-k log-probabilities or weights"
    yield f"No attacker had access to {absent}; with the weights any guard can be trained away."


def _budgets(index: Index, task: str) -> Iterator[str]:
    queries, steps = index.budget(task)
    if queries is None or steps is None:
        yield "The run names no headline budget."
        return
    few: dict[str, list[str]] = {"queries": [], "steps": []}
    for source in index.spectrum(task):
        tried = {budget for arm in index.arms(task) for budget in index.budgets(task, source, arm)}
        for place, (what, headline) in enumerate((("queries", queries), ("steps", steps))):
            if tried and max(budget[place] for budget in tried) < 4 * headline:
                few[what].append(label(source))
    for what, late in (("queries", ""), ("steps", "; accuracy can jump late")):
        if few[what]:
            yield f"{', '.join(few[what])}: no student with four times the {what}{late}."


def _repetitions(rows: Sequence[Row]) -> Iterator[str]:
    students = {row.seed for row in rows if row.role == "student" and row.seed is not None and row.source != "none"}
    if len(students) == 1:
        yield "One seed a student: the interval is over prompts only and knows nothing of how much students differ."
    calibrations = {row.calibration for row in rows if row.calibration is not None}
    if len(calibrations) == 1:
        yield "One calibration a knob: another one may come out differently."
    if not calibrations:
        yield "No calibrated teacher was measured."


def _controls(index: Index, task: str) -> Iterator[str]:
    there = set(index.sources(task))
    missing = [label(control) for control in _CONTROLS if control not in there]
    if missing:
        yield f"Not run: {'; '.join(missing)}."


def _models(rows: Sequence[Row]) -> Iterator[str]:
    students = {row.student for row in rows if row.student}
    if len(students) <= 1:
        yield "One student model: other sizes and tokenizers were not tried."
    proxies = {row.proxy for row in rows if row.proxy}
    if len(proxies) == 1:
        yield "One proxy."


def _measurements(rows: Sequence[Row]) -> Iterator[str]:
    missing = sum(row.value is None for row in rows)
    if missing:
        yield f"{missing:,} of {len(rows):,} values could not be measured; each says why in the table of rows."
    students = [row for row in rows if row.role == "student" and row.split == "test"]
    if students and not any(row.decoding == "sampled" for row in students):
        yield "Students were not measured under sampling."
