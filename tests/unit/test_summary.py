"""From evaluation files to rows: what is cut off counts as wrong, and what nobody could check is missing with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillability.analysis.comparisons import comparison_rows
from distillability.analysis.evaluations import Measured
from distillability.analysis.rows import _seed_rows, _share_rows, _source_rows
from distillability.config.recipe import Recipe
from distillability.files import write_json, write_jsonl
from distillability.results import Row
from distillability.runs.context import TaskContext
from distillability.runs.evaluation_files import student_file, teacher_file
from distillability.runs.paths import traces_file
from distillability.runs.students import Student, students

N = 8
COMMON: dict[str, Any] = {"task": "maths", "role": "student", "source": "plain"}


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    models = {role: f"lab:maths/{role}" for role in ("teacher", "proxy", "student")}
    task = {"type": "maths", "queries": N, "steps": 1, "max_completion_length": 44, **models}
    recipe = Recipe.model_validate({"name": "r", "tasks": [task], "evaluate": {"resamples": 100, "confidence": 0.6}})
    return Measured(TaskContext(recipe, "maths", tmp_path, {"teacher": "float32", "student": "float32"}))


def evaluated(right: float, *, cut: bool = False, checks: bool = True) -> dict[str, Any]:
    """All answers of one model alike; nothing is known of the steps of answers that were cut off."""
    return {
        "samples": 1,
        "right": [right] * N,
        "right_steps": [right] * N if checks and not cut else None,
        "answer_only": None,
        "mean_bytes": 10.0,
        "modes": {},
        "n_truncated": N if cut else 0,
    }


def of_students(measured: Measured, *found: dict[str, Any]) -> list[Row]:
    both = [{"validate": {"greedy": one}, "test": {"greedy": one}} for one in found]
    rows = _seed_rows(measured, both, list(range(len(both))), COMMON)
    return [row for row in rows if (row.split, row.metric) == ("test", "right_steps")]


@pytest.mark.parametrize("cut_one", [0, 1])
def test_a_student_whose_answers_are_all_cut_off_has_no_right_steps_beside_one_that_has(measured: Measured, cut_one: int) -> None:
    found = [evaluated(1.0), evaluated(1.0)]
    found[cut_one] = evaluated(0.0, cut=True)
    rows = of_students(measured, *found)
    assert [row.value for row in rows] == [1.0 - (cut_one == 0), 1.0 - (cut_one == 1), 0.5]
    assert [row.n_truncated for row in rows] == [N * (cut_one == 0), N * (cut_one == 1), N]


def test_steps_that_nobody_could_check_have_no_rows(measured: Measured) -> None:
    for one in (evaluated(0.0, cut=True), evaluated(1.0, checks=False)):
        assert of_students(measured, one, one) == []


def test_missing_right_steps_of_a_teacher_say_why(measured: Measured) -> None:
    def reason(found: dict[str, Any]) -> str | None:
        (row,) = (row for row in _share_rows(measured, found, COMMON | {"role": "teacher", "split": "test"}) if row.metric == "right_steps")
        assert row.value is None
        return row.reason

    assert reason(evaluated(0.0, cut=True)) == "every answer was cut off at the length limit"
    assert reason(evaluated(1.0, checks=False)) == "the task maths cannot tell"


def test_bought_texts_that_are_all_cut_off_are_wrong_and_their_steps_unknown(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measured, "students", [Student("plain", None, "seqkd", 0.0, N, 1, 0)])
    file = traces_file(measured.context.run, "maths", "plain", None)

    def rows(*traces: dict[str, Any]) -> dict[str, Row]:
        write_jsonl(file, traces)
        return {row.metric: row for row in _source_rows(measured)}

    found = rows(*[{"truncated": True}] * N)
    assert found["accuracy"].value == 0 and found["right_steps"].value is None
    assert found["right_steps"].reason == "every text was cut off at the length limit"
    whole = {"truncated": False, "right": True, "right_steps": True}
    found = rows(*[{"truncated": True}] * (N // 2), *[whole] * (N // 2))
    assert found["accuracy"].value == found["right_steps"].value == 0.5
    low, high = found["accuracy"].ci_low, found["accuracy"].ci_high
    assert low is not None and high is not None and high - low < 0.4  # at the recipe's confidence, .6


def test_students_of_two_calibrations_are_not_taken_for_those_of_one(tmp_path: Path) -> None:
    """Each calibration is compared by itself, and an elicitation that only one of them was asked for counts for that one."""
    models = {role: f"lab:maths/{role}" for role in ("teacher", "proxy", "student")}
    task = {"type": "maths", "queries": N, "steps": 1, "max_completion_length": 44, **models}
    sources = ["plain", "plain_few_shot", "plain_best_of_8", "distillable", "undistillable"]
    arms = [{"sources": sources, "seeds": 2}, {"sources": ["undistillable_prefilled", "undistillable_few_shot"], "calibrations": 1}]
    settings = {"calibrate": {"calibrations": 2}, "distill": {"arms": arms}, "evaluate": {"resamples": 100}}
    recipe = Recipe.model_validate({"name": "r", "tasks": [task], **settings})
    context = TaskContext(recipe, "maths", tmp_path, {"teacher": "float32", "student": "float32"})
    reach = {"plain": 0.5, "plain_few_shot": 0.625, "plain_best_of_8": 0.25, "distillable": 0.75, "undistillable": 0.25}

    def answered(share: float) -> dict[str, Any]:
        right = [1.0] * round(200 * share) + [0.0] * round(200 * (1 - share))
        return {"right": right, "right_steps": right}

    for student in students(context):
        share = reach.get(student.source, 0.375) + 0.125 * (student.calibration or 0)
        write_json(student_file(context, student), {"validate": {"greedy": answered(share)}, "test": {"greedy": answered(share)}})
    write_json(teacher_file(context, "plain", None), {"test": {"greedy": answered(1.0)}})
    rows = list(comparison_rows(Measured(context)))

    def of(metric: str, source: str) -> dict[int | None, tuple[float | None, str]]:
        return {row.calibration: (row.value, row.interval or "") for row in rows if (row.metric, row.source) == (metric, source)}

    assert {number: value for number, (value, _) in of("difference_to_plain", "distillable").items()} == {0: 0.25, 1: 0.375}
    assert of("difference_to_plain", "plain_best_of_8")[None][0] == -0.25
    assert all("2 and 2 seeds" in how for _, how in of("difference_to_plain", "undistillable").values())
    up = of("headline_up", "distillable")
    assert up[0][0] == 0.25 and up[0][1].endswith("alternative: plain")  # which nobody has to pay more for than for the best of 8
    left = of("yield", "undistillable")
    assert left[0][0] == pytest.approx((0.375 - 0.1) / (0.625 - 0.1)) and "undistillable_" in left[0][1]
    assert left[1][0] == pytest.approx((0.375 - 0.1) / (0.625 - 0.1)) and "guard: undistillable" in left[1][1]
    assert of("elicited_yield", "undistillable").keys() == {0}
    assert all("plain: plain_few_shot" in how for _, how in left.values())
