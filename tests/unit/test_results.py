"""results.json: one row a line, read as it was written, and refused where its schema is unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _synthetic_run import full_rows, write_run

from command_line import invoke
from distillability.errors import UserError
from distillability.results import SCHEMA, Results, Row, RunInfo, read_results, write_results

RUN = RunInfo(name="r", recipe_digest="d", version="0", queries={"maths": 2000}, notes={"autocast": {"maths": None}})
MISSING = Row(task="maths", split="test", role="student", source="plain", metric="yield", reason="no floor")
ROWS = [*full_rows(), MISSING]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_results(Results(run=RUN, rows=ROWS), tmp_path / "results.json")
    return tmp_path / "results.json"


def _with(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_what_is_read_is_what_was_written(path: Path) -> None:
    found = read_results(path)
    assert found == Results(run=RUN, rows=ROWS)
    before = path.read_bytes()
    write_results(found, path)
    assert path.read_bytes() == before
    write_results(Results(run=RUN), path)
    assert read_results(path).rows == []


def test_a_row_is_a_line_without_what_it_does_not_say(path: Path) -> None:
    first, *lines, last = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith(f'{{"schema": {SCHEMA}, "run": ') and last == "]}"
    rows = [json.loads(line.removesuffix(",")) for line in lines]
    assert len(rows) == len(ROWS)
    assert not [row for row in rows if None in row.values() or None in row.get("budget", {}).values()]
    assert rows[-1] == MISSING.model_dump(include={"task", "split", "role", "source", "metric", "reason"})


def test_zero_is_a_value_that_is_written(path: Path) -> None:
    zero = {"value": 0.0, "ci_low": 0.0, "knob": 0.0, "calibration": 0, "seed": 0}
    row = Row(task="maths", split="test", role="teacher", source="knob_0", metric="accuracy", **zero)
    write_results(Results(run=RUN, rows=[row]), path)
    (line,) = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert zero.items() <= line.items()


def test_the_schema_before_is_read(path: Path) -> None:
    """Its rows had every field, null ones too, and three that no run ever filled."""
    gone = {"attacker": None, "access": None, "n_errors": 0}
    _with(path, schema=1, rows=[row.model_dump(mode="json") | gone for row in ROWS])
    assert read_results(path) == Results(run=RUN, rows=ROWS)


@pytest.mark.parametrize("filled", [{"attacker": "someone"}, {"access": "text"}, {"n_errors": 3}, {"role": "attacker"}])
def test_a_gone_field_that_holds_something_is_not_lost(path: Path, filled: dict[str, Any]) -> None:
    _with(path, schema=1, rows=[ROWS[0].model_dump(mode="json") | filled])
    with pytest.raises(UserError) as raised:
        read_results(path)
    assert raised.value.problems[0].where.startswith(f"{path} at rows.0.{next(iter(filled))}")


def test_this_schema_has_no_gone_fields(path: Path) -> None:
    _with(path, rows=[ROWS[0].model_dump(mode="json") | {"n_errors": 0}])
    with pytest.raises(UserError, match=r"rows\.0\.n_errors"):
        read_results(path)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, -1, None, True, "2", 1.0, [2]])
def test_another_schema_is_refused(path: Path, schema: Any) -> None:
    _with(path, schema=schema)
    with pytest.raises(UserError) as raised:
        read_results(path)
    (problem,) = raised.value.problems
    assert problem.where == f"{path} at schema" and problem.what and problem.fix


@pytest.mark.parametrize("verb", ["show", "report"])
@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None])
def test_the_command_line_refuses_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, schema: int | None) -> None:
    run = write_run(tmp_path / "run", curves=False)
    _with(run / "results.json", schema=schema)
    with pytest.raises(SystemExit) as raised:
        invoke(verb, str(run))
    assert raised.value.code == 2
    assert f"{run}/results.json at schema: " in capsys.readouterr().err
    assert not (run / "report.md").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"run": {}}'])
def test_no_schema_is_refused(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(UserError) as raised:
        read_results(path)
    assert raised.value.problems[0].where == f"{path} at schema"


def test_rows_of_an_objective_under_its_former_name_are_read_under_its_present_one() -> None:
    row = Row(task="maths", split="test", role="student", source="plain", objective="universal", metric="accuracy", value=0.5)
    assert row.objective == "uld"
