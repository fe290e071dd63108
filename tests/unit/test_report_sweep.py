"""The report of a sweep: the knob curve comes first, and the verdict says what the intervals support."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _synthetic_run import full_rows, write_run
from _synthetic_sweep import KNOBS, source, sweep_rows, write_sweep
from matplotlib.axes import Axes

from distillability.files import write_json
from distillability.report import build_report, headline_text
from distillability.report.build import _MEASURES
from distillability.report.limits import limits
from distillability.report.rows import DERIVED, Index
from distillability.report.sweep_figure import curve_picture
from distillability.report.sweep_page import dose_table, sweep_verdicts
from distillability.report.verdicts import verdicts
from distillability.results import Results, Row, RunInfo


def results(rows: list[Row]) -> Results:
    run = {"name": "r", "recipe_digest": "d", "version": "0", "complete": True, "queries": {"maths": 2000}, "steps": {"maths": 1000}}
    return Results(run=RunInfo.model_validate(run), rows=rows)


def index(rows: list[Row] | None = None) -> Index:
    return Index(results(sweep_rows() if rows is None else rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_sweep(tmp_path_factory.mktemp("sweep"), curves=True)
    build_report(made)
    return made


# The page


def test_the_curve_is_first_and_the_verdict_follows_it(folder: Path) -> None:
    names = {file.name for file in (folder / "figures").iterdir()}
    assert {"curve.png", "calibration.png"} <= names and "knob.png" not in names
    page = (folder / "report.html").read_text(encoding="utf-8")
    told = (folder / "report.md").read_text(encoding="utf-8")
    assert page.index("<figure>") < page.index("The knob doses: ") < page.index("Knob −1: ") < page.index("Knob +1: ")
    assert told.index("figures/curve.png") < told.index("**The knob doses: ") < told.index("**Knob -1: ")
    assert [line[:8] for line in told.splitlines() if line.startswith("- **")] == ["- **The ", "- **Knob", "- **Knob"]
    assert "The knob at a glance" not in page
    for inner in ("Knob −0.3: ", "Knob +0.03: "):
        assert inner not in page  # verdicts are of the whole knob and of its ends


def test_a_line_a_value_of_the_knob(folder: Path) -> None:
    told = (folder / "report.md").read_text(encoding="utf-8")
    lines = [line for line in told.splitlines() if line.startswith(("| -", "| +", "| 0 ", "| plain |"))][: len(KNOBS) + 1]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        "-1",
        "-0.3",
        "-0.1",
        "-0.03",
        "plain",
        "0",
        "+0.03",
        "+0.1",
        "+0.3",
        "+1",
    ]
    assert "&lt; -7.10 | -50.00 | yes |" in lines[0]
    assert "-4.00 [-4.40, -3.60] | -5.00 | **no** |" in lines[2]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "&lt; −7.10" in page and "−50.00" in page


def test_the_report_of_a_sweep_is_the_same_when_made_again(folder: Path) -> None:
    files = [folder / "report.html", folder / "report.md", *(folder / "figures").iterdir()]
    before = {file: file.read_bytes() for file in files}
    build_report(folder)
    assert {file: file.read_bytes() for file in files} == before


def test_other_runs_are_shown_as_before(tmp_path: Path) -> None:
    run = write_run(tmp_path, curves=False)
    page = build_report(run).read_text(encoding="utf-8")
    assert not (run / "figures" / "curve.png").exists()
    assert "The knob at a glance" in page and "at rest" not in page and "doses" not in page
    assert sweep_verdicts(Index(results(full_rows()))) == []


@pytest.mark.parametrize("kept", ["no students", "no teachers", "two of the students", "only the sweep's own rows", "nothing of an end"])
def test_a_sweep_with_holes_has_a_report(tmp_path: Path, kept: str) -> None:
    keep = {
        "no students": lambda row: row.role == "teacher" or row.source == "sweep",
        "no teachers": lambda row: row.role == "student",
        "two of the students": lambda row: row.role == "teacher" or row.source in ("sweep", source(-1.0), source(0.1)),
        "only the sweep's own rows": lambda row: row.source == "sweep",
        "nothing of an end": lambda row: row.source != source(1.0),
    }[kept]
    rows = [row for row in sweep_rows(order=(None, None, None), between=None) if keep(row)]
    run = write_sweep(tmp_path, rows, complete=False)
    page = build_report(run).read_text(encoding="utf-8")
    assert "Whether the knob doses is open: students of 2 values of the knob, 3 are needed." in page
    assert headline_text(results(rows)).startswith("maths: Whether the knob doses is open")


def test_every_derived_measure_has_a_name() -> None:
    assert set(_MEASURES) == set(DERIVED)


# The verdict


@pytest.mark.parametrize(
    ("order", "between", "outcome", "head"),
    [
        ((0.95, 0.82, 1.0), 2.0, "yes", "The knob doses: students learn more the higher it is set, and on both sides"),
        (
            (0.95, 0.82, 1.0),
            0.0,
            "partly",
            "The knob is not shown to dose: students learn more the higher it is set, but no values in between",
        ),
        ((0.95, 0.82, 1.0), None, "partly", "The knob is not shown to dose: students learn more the higher it is set, but whether values"),
        ((0.5, -0.1, 0.8), 2.0, "no", "The knob is not shown to dose: not shown that students learn more"),
        ((-0.9, -1.0, -0.6), 2.0, "no", "The knob does not dose as it should: students learn less"),
        ((None, None, None), 2.0, "open", "Whether the knob doses is open: students of 2 values of the knob, 3 are needed."),
    ],
)
def test_only_what_the_intervals_support(
    order: tuple[float | None, float | None, float | None], between: float | None, outcome: str, head: str
) -> None:
    (verdict,) = sweep_verdicts(index(sweep_rows(order=order, between=between)))
    assert verdict.outcome == outcome
    assert verdict.head.startswith(head)


@pytest.mark.parametrize(
    ("sides", "outcome"), [("below 0: -0.03, above 0: +0.03", "yes"), ("above 0: +0.03", "partly"), ("below 0: -0.1", "partly")]
)
def test_a_knob_that_doses_on_one_side_doses_partly(sides: str, outcome: str) -> None:
    rows = [
        row.model_copy(update={"interval": f"touching; {sides}"}) if row.metric == "knob_levels_between" else row for row in sweep_rows()
    ]
    (verdict,) = sweep_verdicts(index(rows))
    assert verdict.outcome == outcome


def test_the_verdict_s_numbers() -> None:
    (verdict,) = sweep_verdicts(index())
    told = " ".join(verdict.detail)
    assert "seqkd, sampled answers: rank correlation of knob and students' accuracy +0.950 [+0.820, +1.000] over 9 values" in told
    assert "2 of 7 values in between apart from 0 and both ends (below 0: -0.03, above 0: +0.03)" in told
    assert "Rank correlation of |knob| and anchor +0.970 over 9 calibrations; 0.00 to 1.40 nats a sequence." in told
    assert "The anchor had come to rest in 8 of 9 calibrations, not at knob -0.1." in told
    assert [value for value, _ in verdict.glance][1:] == ["+0.950", "2 of 7"]


def test_sampled_answers_are_read_where_there_are_any() -> None:
    greedy = [row for row in sweep_rows() if row.decoding != "sampled" or row.role == "teacher"]
    assert "seqkd, greedy answers" in sweep_verdicts(index(greedy))[0].detail[0]
    unsampled = [
        row.model_copy(update={"value": None, "ci_low": None, "ci_high": None, "reason": "not sampled"})
        if (row.metric, row.decoding) == ("knob_order", "sampled")
        else row
        for row in sweep_rows()
    ]
    assert "seqkd, greedy answers" in sweep_verdicts(index(unsampled))[0].detail[0]


def test_objectives_that_disagree_are_counted() -> None:
    other = [
        row.model_copy(update={"objective": "forward_kl"}) for row in sweep_rows() if row.objective == "seqkd" and row.source != "sweep"
    ]
    measures = [row for row in sweep_rows(order=(0.2, -0.5, 0.8), between=0.0) if row.source == "sweep" and row.objective]
    (verdict,) = sweep_verdicts(index([*sweep_rows(), *other, *(row.model_copy(update={"objective": "forward_kl"}) for row in measures)]))
    assert verdict.outcome == "partly"
    assert verdict.head.endswith("by 1 of 2 objectives tried (seqkd).")


def test_the_ends_alone_get_a_verdict_of_their_own() -> None:
    assert [verdict.source for verdict in verdicts(index())] == ["knob_-1", "knob_1"]


def test_what_was_not_tested_names_each_lack_once() -> None:
    lines = [line for _, found in limits(index()) for line in found]
    assert sum("four times the queries" in line for line in lines) == 1
    assert [sum(what in line for line in lines) for what in ("(prefill, examples", "by temperature", "Selection among")] == [1, 1, 1]


# The figure


def panels(rows: list[Row] | None = None, budget: float | None = 3.0) -> dict[str, Axes]:
    drawn = curve_picture(index(rows), "maths", budget)
    assert drawn is not None
    return {axes.get_title(loc="left"): axes for axes in drawn[0].axes}


def drawn(axes: Axes) -> list[tuple[Any, Any]]:
    """What is joined by a line, as (knobs, values)."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if len(line.get_xdata()) == len(KNOBS)]


def test_students_above_and_the_teacher_below() -> None:
    found = panels()
    assert list(found) == [
        "Students, sampled answers",
        "Students, greedy answers",
        "Teacher's own right steps",
        "Anchor, nats a sequence",
        "Shift of log-odds, hard to easy",
    ]
    for axes in found.values():
        assert axes.get_xscale() == "symlog"
        assert list(axes.get_xticks()) == sorted(KNOBS)
    ((knobs, values),) = drawn(found["Students, greedy answers"])
    assert knobs == sorted(KNOBS)
    assert values[0] < 0.2 < 0.8 < values[-1]


def test_a_missing_student_is_a_gap_and_a_mark() -> None:
    whole, holed = panels(), panels([row for row in sweep_rows() if not (row.role == "student" and row.source == source(0.1))])
    ((_, values),) = drawn(holed["Students, sampled answers"])
    assert [value != value for value in values] == [knob == 0.1 for knob in sorted(KNOBS)]

    def crosses(axes: Axes) -> list[Any]:
        return [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]

    assert crosses(whole["Students, sampled answers"]) == []
    assert crosses(holed["Students, sampled answers"]) == [[0.1]]


def test_what_is_only_bounded_is_an_arrowhead_and_what_moves_is_hollow() -> None:
    found = panels()
    heads = {line.get_xdata()[0]: line.get_marker() for line in found["Shift of log-odds, hard to easy"].lines if line.get_marker() in "^v"}
    assert heads == {-1.0: "v", -0.3: "v", 0.3: "^", 1.0: "^"}
    hollow = [line.get_xdata()[0] for line in found["Anchor, nats a sequence"].lines if line.get_markerfacecolor() == "white"]
    assert hollow == [-0.1]


def test_a_task_without_modes_has_no_shift() -> None:
    rows = [row for row in sweep_rows() if not row.metric.startswith("mode_shift")]
    assert "Shift of log-odds, hard to easy" not in panels(rows)
    assert not any(line["shifted"] for line in dose_table(index(rows), "maths"))


def test_only_a_sweep_with_students_has_a_curve() -> None:
    assert curve_picture(index([row for row in sweep_rows() if row.role == "teacher"]), "maths", None) is None
    assert curve_picture(Index(results(full_rows())), "maths", None) is None


def test_the_curve_is_told_in_words() -> None:
    drawn = curve_picture(index(), "maths", None)
    assert drawn is not None
    assert "seqkd, sampled: " in drawn[1] and " at -1, " in drawn[1] and "students of the plain teacher" in drawn[1]


# Diagnoses of a sweep


def diagnosis(knob: float, objective: str | None, value: float | None) -> dict[str, Any]:
    """As a file of the diagnose stage, with two measures."""
    name = "wrong_trace_preference" if objective else "distillability"
    bounds = (None, None) if value is None else (value - 0.05, value + 0.05)
    finding = {"trap": "t", "name": name, "title": "a title", "threshold": 0.5, "side": "below", "source": "own", "remedy": "r", "n": 200}
    finding |= {"value": value, "low": bounds[0], "high": bounds[1], "method": "m", "reason": None if value is not None else "why <not>"}
    finding |= {"severity": "unknown" if value is None else "none", "sentence": "s", "n_skipped": 0}
    finding |= {"details": {} if value is None else {"score": value, "expected": {"seqkd": value, "jsd": value / 2}}}
    other = finding | {"name": "log_ratio", "threshold": 0.25}
    named = {
        "task": "maths",
        "source": source(knob),
        "knob": knob,
        "calibration": 0,
        "objective": objective,
        "seed": 0 if objective else None,
    }
    return named | {"student": "s", "findings": [finding, other], "cost": {"seconds": 1.0, "forwards": {}}, "probe": None}


def test_traps_and_symptoms_stand_against_the_knob(tmp_path: Path) -> None:
    made = write_sweep(tmp_path)
    for knob in KNOBS:
        for objective, file in ((None, "before.json"), ("seqkd", "seqkd/seed-0.json")):
            write_json(made / "diagnose/maths" / source(knob) / file, diagnosis(knob, objective, None if knob == 0 else 0.5 + knob / 4))
    page = build_report(made).read_text(encoding="utf-8")
    assert "Traps and symptoms against the knob" in page and (made / "figures/trap-curve.png").is_file()
    assert "What students can be expected to reach" in page and "why &lt;not&gt;" in page
    told = (made / "report.md").read_text(encoding="utf-8")
    assert "Distil from knob\\_1 by seqkd: students are expected to reach 0.750." in told


def test_few_values_of_the_knob_make_no_curve(tmp_path: Path) -> None:
    made = write_sweep(tmp_path)
    for knob in KNOBS[:3]:
        write_json(made / "diagnose/maths" / source(knob) / "before.json", diagnosis(knob, None, 0.5))
    build_report(made)
    assert not (made / "figures/trap-curve.png").exists()
