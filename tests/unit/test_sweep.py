"""A sweep's recipe: derived, ordinary, and the same when it is derived again; and the rows that the stages write of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillability.analysis.evaluations import Measured
from distillability.analysis.sweep_rows import dose_rows
from distillability.config.load import canonical_json, load_recipe
from distillability.config.recipe import Recipe
from distillability.config.sweep import derive, is_sweep, knob_source
from distillability.files import read_json, write_json, write_jsonl
from distillability.results import Row
from distillability.runs.context import TaskContext
from distillability.runs.evaluation_files import student_before_file, student_file, teacher_file
from distillability.runs.paths import admission_file, calibration_folder
from distillability.runs.students import students

KNOBS = [0.3, -0.3, 0.0, -1.0, 1.0]
MODES = ("easy", "hard", "remark_easy", "remark_hard")


def base(**sweep: Any) -> Recipe:
    lab = {"type": "maths", "teacher": "lab:maths/teacher", "proxy": "lab:maths/proxy", "student": "lab:maths/student"}
    task = lab | {"queries": 16, "steps": 2, "max_completion_length": 44}
    return Recipe.model_validate({"name": "base", "tasks": [task], "sweep": {"knobs": KNOBS, "seeds": 2, **sweep}})


# The recipe


def test_a_teacher_for_every_knob_in_their_order_and_students_of_each() -> None:
    recipe = derive(base(ends_objectives=["jsd", "seqkd", "jsd", "forward_kl"]))
    assert {name: teacher.knob for name, teacher in recipe.calibrate.teachers.items()} == {
        "knob_-1": -1.0,
        "knob_-0.3": -0.3,
        "knob_0": 0.0,
        "knob_0.3": 0.3,
        "knob_1": 1.0,
    }
    assert list(recipe.calibrate.teachers) == ["knob_-1", "knob_-0.3", "knob_0", "knob_0.3", "knob_1"]
    along, ends = recipe.distill.arms
    assert (along.sources, along.objectives, along.seeds) == (["plain", *recipe.calibrate.teachers], ["seqkd"], 2)
    assert (ends.sources, ends.objectives, ends.seeds) == (["plain", "knob_-1", "knob_1"], ["jsd", "forward_kl"], 2)
    assert len(derive(base(ends_objectives=["seqkd"])).distill.arms) == 1


def test_everything_else_is_the_recipe_s_own_and_deriving_again_changes_nothing(tmp_path: Path) -> None:
    recipe = base()
    once = derive(recipe)
    assert not is_sweep(recipe) and is_sweep(once) and derive(once) == once
    assert (once.name, once.tasks, once.evaluate) == ("base-sweep", recipe.tasks, recipe.evaluate)
    assert once.calibrate.model_copy(update={"teachers": {}}) == recipe.calibrate.model_copy(update={"teachers": {}})
    stored = tmp_path / "recipe.json"
    stored.write_text(canonical_json(once), encoding="utf-8")
    assert is_sweep(load_recipe(stored)) and derive(load_recipe(stored)) == once


def test_a_name_that_says_sweep_says_it_once() -> None:
    assert derive(base().model_copy(update={"name": "lab-sweep"})).name == "lab-sweep"


def test_the_default_is_spaced_in_log_with_both_signs_and_0() -> None:
    knobs = Recipe.model_validate({"name": "x", "tasks": base().tasks}).sweep.knobs
    assert knobs == [-1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0]
    assert knobs == [-knob + 0.0 for knob in reversed(knobs)]


@pytest.mark.parametrize(("knob", "name"), [(-0.3, "knob_-0.3"), (0.0, "knob_0"), (1.0, "knob_1"), (0.00001, "knob_1e-05")])
def test_names(knob: float, name: str) -> None:
    assert knob_source(knob) == name


# The rows


@pytest.fixture
def run(tmp_path: Path) -> TaskContext:
    """A sweep as the stages leave it, with made-up answers: students follow the knob, and so do the teachers' modes."""
    recipe = derive(base())
    context = TaskContext(recipe, "maths", tmp_path, {"teacher": "float32", "student": "float32"})
    scale = {"compatibility": 0.07, "length": 1.5}
    means = {"easy": 0.0, "hard": -0.07, "remark_easy": 0.0, "remark_hard": -0.07}
    write_json(admission_file(tmp_path, "maths"), {"scale": scale, "mean_compatibility": means})
    write_json(teacher_file(context, "plain", None), teacher(0.5, 0.0))
    for name, one in recipe.calibrate.teachers.items():
        write_json(teacher_file(context, name, 0), teacher(0.5 + 0.5 * max(-1.0, min(1.0, 2 * one.knob)), abs(one.knob)))
        folder = calibration_folder(tmp_path, "maths", name, 0)
        write_jsonl(folder / "metrics.jsonl", [{"anchor_nats": abs(one.knob)} for _ in range(12)])
        done = {"steps": 12, "kept_step": 12 if abs(one.knob) < 1 else 10, "stopped": "anchor over its budget" if one.knob == 1 else None}
        write_json(folder / "done.json", done)
    for seed in (0, 1):
        write_json(student_before_file(context, seed), student(0.0, seed))
    for one in students(context):
        knob = 0.0 if one.source == "plain" else recipe.calibrate.teachers[one.source].knob
        write_json(student_file(context, one), student(0.5 + 0.4 * knob, one.seed))
    return context


def teacher(easy: float, nats: float) -> dict[str, Any]:
    modes = dict(zip(MODES, (easy / 2, (1 - easy) / 2) * 2, strict=True))
    found = {"right": [1.0] * 400, "right_steps": [1.0] * 400, "modes": modes}
    return {"test": {"greedy": found, "sampled": found}, "texts": {"anchor_nats": nats}}


def student(share: float, seed: int) -> dict[str, Any]:
    right = [1.0] * round(share * 400) + [0.0] * (400 - round(share * 400))
    right = right[7 * seed :] + right[: 7 * seed]
    return {"validate": {"greedy": {"right": right[:50]}}, "test": {decoding: {"right": right} for decoding in ("greedy", "sampled")}}


def rows_of(context: TaskContext) -> Callable[..., list[Row]]:
    rows = list(dose_rows(Measured(context)))
    return lambda metric, **fields: [
        row for row in rows if row.metric == metric and all(getattr(row, name) == value for name, value in fields.items())
    ]


def test_rows_of_a_whole_sweep(run: TaskContext) -> None:
    found = rows_of(run)
    for decoding in ("greedy", "sampled"):
        (order,) = found("knob_order", decoding=decoding)
        assert (order.source, order.role, order.objective, order.n, order.value) == ("sweep", "student", "seqkd", 5, 1.0)
        assert order.ci_low is not None and order.ci_low > 0.7
        assert order.budget is not None and (order.budget.queries, order.budget.steps) == (16, 2)
        (between,) = found("knob_levels_between", decoding=decoding)
        assert (between.value, between.n) == (2.0, 2)
        assert between.interval is not None and between.interval.endswith("; below 0: -0.3, above 0: +0.3")
    (growth,) = found("anchor_growth")
    assert (growth.value, growth.n, growth.source) == (1.0, 5, "sweep")


def test_rows_of_every_teacher(run: TaskContext) -> None:
    found = rows_of(run)
    assert {row.source: row.value for row in found("anchor_flat")} == {
        "knob_-1": 0.0,
        "knob_-0.3": 1.0,
        "knob_0": 1.0,
        "knob_0.3": 1.0,
        "knob_1": 0.0,
    }
    assert found("anchor_flat", source="knob_1")[0].reason == "anchor over its budget"
    assert found("anchor_flat", source="knob_-1")[0].reason == "the weights of step 10 of 12 were kept"
    predicted = {row.source: row.value for row in found("mode_shift_predicted")}
    assert predicted == pytest.approx({"knob_-1": -20.0, "knob_-0.3": -6.0, "knob_0": 0.0, "knob_0.3": 6.0, "knob_1": 20.0})
    (reached,) = found("mode_shift", source="knob_0.3")
    assert reached.value == pytest.approx(1.386, abs=0.001)
    (gone,) = found("mode_shift", source="knob_1")
    assert gone.value is None and gone.ci_low is not None and gone.ci_low > 4 and "no hard answers are left" in (gone.reason or "")


def test_answers_that_are_in_neither_way_take_no_part_in_a_shift(run: TaskContext) -> None:
    """The plain teacher gives a fifth of its answers without steps, which no calibration that asks for steps leaves."""
    before = rows_of(run)("mode_shift", source="knob_0.3")[0].value
    file = teacher_file(run, "plain", None)
    found = read_json(file)
    modes = found["test"]["sampled"]["modes"]
    found["test"]["sampled"]["modes"] = {mode: 0.8 * share for mode, share in modes.items()} | {"answer_only": 0.2}
    write_json(file, found)
    assert rows_of(run)("mode_shift", source="knob_0.3")[0].value == pytest.approx(before)


def test_what_cannot_be_had_says_why(run: TaskContext) -> None:
    for one in students(run):
        if one.source == "knob_1":
            student_file(run, one).unlink()
    for name in ("knob_-1", "knob_-0.3", "knob_0"):
        teacher_file(run, name, 0).unlink()
    found = rows_of(run)
    (between,) = found("knob_levels_between", decoding="sampled")
    assert between.value is None and between.reason == "no students of knob 1"
    assert found("knob_order", decoding="sampled")[0].n == 4
    assert found("anchor_growth")[0].reason == "an anchor of 2 calibrations, 3 are needed"
    assert not found("mode_shift", source="knob_0")


def test_an_unsampled_run_has_no_sampled_reading(run: TaskContext) -> None:
    for file in (run.run / "evaluate").rglob("*.json"):
        stored = json.loads(file.read_text(encoding="utf-8"))
        stored["test"].pop("sampled")
        stored.pop("texts", None)
        write_json(file, stored)
    found = rows_of(run)
    assert found("knob_order", decoding="greedy")[0].value == 1.0
    assert found("knob_order", decoding="sampled")[0].reason == "students of 0 values of the knob, 3 are needed"
    assert {row.reason for row in found("mode_shift")} == {"the teachers' answers were not sampled"}
    assert {row.reason for row in found("mode_shift_predicted")} == {"the plain teacher's answers were not sampled"}


@pytest.mark.parametrize("key", ["advantage", "reference", "proxy_aggregate"])
def test_where_the_formula_does_not_hold_nothing_is_predicted(run: TaskContext, key: str) -> None:
    value = {"advantage": "z_sum", "reference": "policy", "proxy_aggregate": "worst"}[key]
    task = run.config.model_copy(update={"proxies": ["lab:maths/student_steps"]})
    calibrate = run.recipe.calibrate.model_copy(update={key: value})
    recipe = run.recipe.model_copy(update={"calibrate": calibrate, "tasks": [task]})
    rows = rows_of(TaskContext(recipe, "maths", run.run, run.autocast))("mode_shift_predicted")
    assert len(rows) == 5
    assert all(row.value is None and f'{key} = "{value}"' in (row.reason or "") for row in rows)


def test_any_other_run_has_no_such_rows(run: TaskContext) -> None:
    recipe = run.recipe.model_copy(update={"sweep": run.recipe.sweep.model_copy(update={"knobs": [-1.0, 1.0]})})
    assert list(dose_rows(Measured(TaskContext(recipe, "maths", run.run, run.autocast)))) == []
