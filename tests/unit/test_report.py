"""The report: what is measured is shown, what is missing says why, and nothing that a model wrote becomes markup."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from _synthetic_run import HOSTILE, OBJECTIVES, full_rows, manifest, student_rows, teacher_rows, write_run

from distillability.config.objectives import OBJECTIVE_RECORDS
from distillability.errors import UserError
from distillability.report import build_report, headline_table, headline_text
from distillability.report.cost_table import costs_of
from distillability.report.figures import calibration_picture, queries_picture
from distillability.report.folder import Curve, read_run
from distillability.report.limits import limits, planted, untried_attacks
from distillability.report.numbers import markdown, number, short_path, signed, visible
from distillability.report.rows import Arm, Index
from distillability.report.verdicts import verdicts
from distillability.results import Results, Row, RunInfo, read_results, write_results


class Page(HTMLParser):
    """Counts elements and collects what a reader sees."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.seen: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside == "script" else self.seen).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.seen))


def results(rows: list[Row], **info: object) -> Results:
    known = {"name": "r", "recipe_digest": "d", "version": "0", "complete": True, "queries": {"maths": 2000}, "steps": {"maths": 1000}}
    return Results(run=RunInfo.model_validate({**known, **info}), rows=rows)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("full"))
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(full: Path) -> Page:
    return Page((full / "report.html").read_text(encoding="utf-8"))


def test_a_full_run_gives_page_markdown_and_pictures(full: Path, page: Page) -> None:
    names = {file.name for file in (full / "figures").iterdir()}
    assert {"knob.png", "queries.png", "calibration.png"} <= names
    assert page.tags["img"] == 3
    for heading in ("The knob at a glance", "What the teacher keeps", "Calibrations apart", "What was not tested", "How to reproduce"):
        assert heading in page.text
    told = (full / "report.md").read_text(encoding="utf-8")
    assert all(f"figures/{name}.png" in told for name in ("knob", "queries", "calibration"))
    assert "reconstruction of arXiv 2604.18963" in told
    assert "reconstruction of arXiv 2604.18963" in page.text


def test_what_it_took_counts_only_what_was_counted(full: Path, page: Page) -> None:
    told = (full / "report.md").read_text(encoding="utf-8")
    assert "| calibrate: calibration | 2 | 13.3 min | 40% | 160,000 | 200 | 1.50 GB |" in told
    assert "| distill: traces | 3 | 3.3 min | 10% | 0 | – | not known |" in told
    assert "| diagnose: diagnosis | 1 | 16.7 min | 50% | not counted | – | 0.90 GB |" in told
    assert "What it took" in page.text
    assert costs_of({}, {}) is None
    two = costs_of(manifest(), {"workers": 2})
    assert two is not None and two.memory == "3.00 GB at most in all 2 together"


def test_the_same_folder_gives_the_same_report(full: Path) -> None:
    first = {file: file.read_bytes() for file in [full / "report.html", full / "report.md", *(full / "figures").iterdir()]}
    build_report(full)
    assert {file: file.read_bytes() for file in first} == first


def test_the_page_is_closed_to_the_network(page: Page) -> None:
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and name == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action") and value]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not [name for _, name, _ in page.attributes if name == "style" or name.startswith("on")]


def test_the_policy_names_the_hash_of_the_page_s_own_style_and_script(full: Path) -> None:
    import base64
    import hashlib

    html = (full / "report.html").read_text(encoding="utf-8")
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(content) == 1
        assert base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode() in html


def test_hostile_text_changes_no_element(tmp_path: Path) -> None:
    pages = {}
    for name, text in (("harmless", "x" * len(HOSTILE)), ("hostile", HOSTILE)):
        rows = [*full_rows(), *student_rows("plain", 0.5, text), hostile_row(text)]
        folder = write_run(tmp_path / name, rows=rows, texts=[text], curves=False)
        lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        for line in lines:
            line["prompt"] = line["answer"] = text
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        pages[name] = Page(build_report(folder).read_text(encoding="utf-8"))
    assert pages["hostile"].tags == pages["harmless"].tags
    assert pages["hostile"].tags["script"] == 2
    assert "alert(1)" in pages["hostile"].text  # shown, as text
    assert "\u202e" not in pages["hostile"].text
    assert "\\u202e" in pages["hostile"].text
    data = json.loads(pages["hostile"].scripts[0])
    assert any(HOSTILE in map(str, row) for row in data["rows"])
    told = (tmp_path / "hostile" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in told
    assert "<img" not in told


def hostile_row(text: str) -> Row:
    return Row(task="maths", split="test", role="student", source=text, objective="seqkd", metric="yield", value=None, reason=text)


def test_the_headline_has_every_objective_source_and_calibration() -> None:
    table = headline_table(results(full_rows()))
    students = [entry for entry in table if entry["kind"] == "students"]
    assert [entry["objective"] for entry in students] == list(OBJECTIVES)
    assert list(students[0]["cells"]) == ["undistillable", "plain", "knob_0", "distillable"]
    assert [cell["calibration"] for cell in students[0]["cells"]["distillable"]] == [0, 1]
    assert all(cell["seeds"] == 3 and cell["n"] == 1000 for found in students[0]["cells"].values() for cell in found)
    pooled = next(
        row
        for row in full_rows()
        if (row.source, row.objective, row.split, row.decoding, row.seed) == ("plain", "seqkd", "test", "greedy", None)
        and row.budget is not None
        and (row.budget.queries, row.budget.steps) == (2000, 1000)
    )
    assert students[0]["cells"]["plain"][0]["value"] == pooled.value


def test_controls_say_what_they_are() -> None:
    table = headline_table(results(full_rows()))
    kinds = {entry["label"]: entry["kind_label"] for entry in table if entry["kind"] == "control"}
    assert kinds["plain, best of 8"] == "free alternative"
    assert kinds["gold steps, no teacher"] == kinds["plain, easy-mode prefill"] == "ceiling, not free"
    assert kinds["undistillable, generic prefill"] == "attack"
    assert kinds["plain, 4 × queries (8,000 × 1,000 steps)"] == "free alternative"


def _kept(metric: str, rows: list[Row], low: float) -> bool | None:
    """Whether a teacher counts as kept whose paired change in a metric, greedy, has this lower bound."""
    change = {"metric": f"teacher_{metric}_change", "decoding": "greedy", "value": low + 0.002, "ci_low": low, "ci_high": 0.0}
    row = Row(task="maths", split="test", role="teacher", source="undistillable", knob=-1.0, calibration=0, n=4000, **change)
    table = headline_table(results([*rows, row]))
    teacher = next(entry for entry in table if entry["kind"] == "teacher")
    measure = next(one for one in teacher["measures"] if (one["metric"], one["decoding"]) == (metric, "greedy"))
    return measure["rows"][0]["passed"]


def test_the_teacher_is_kept_only_above_the_bar() -> None:
    rows = [*teacher_rows("plain"), *teacher_rows("undistillable", 0)]
    assert _kept("right_steps", rows, -0.014) is True
    assert _kept("right_steps", rows, -0.016) is False
    assert _kept("accuracy", rows, -0.014) is None  # answers without their steps are not what is to be kept


def test_where_nothing_checks_steps_the_bar_is_on_accuracy_and_the_report_says_what_that_misses(tmp_path: Path) -> None:
    rows = [row for row in [*teacher_rows("plain"), *teacher_rows("undistillable", 0)] if row.metric != "right_steps"]
    assert _kept("accuracy", rows, -0.014) is True
    assert _kept("accuracy", rows, -0.016) is False
    run = write_run(tmp_path, curves=False)
    write_results(results(rows), run / "results.json")
    build_report(run)
    for name in ("report.md", "report.html"):
        told = (run / name).read_text(encoding="utf-8")
        assert "accuracy before" in told and "right steps before" not in told
        assert "a teacher that no longer shows them looks kept" in told


def test_other_budgets_and_splits_never_reach_the_headline() -> None:
    rows = [*student_rows("plain", 0.9, "seqkd", budget=(4000, 1000)), *student_rows("distillable", 0.9, "seqkd", calibration=0)]
    index = Index(results(rows))
    cell = index.student_cells("maths", "plain", Arm("seqkd", "teacher", "lab:maths/student"))[0]
    assert cell.value is None
    assert cell.reason == "only measured at other budgets"
    validate = Index(results([row for row in rows if row.split == "validate"]))
    assert validate.arms("maths") == []


def test_missing_is_shown_with_its_reason_and_never_as_zero(tmp_path: Path) -> None:
    why = "no complete answer was left to grade"
    rows = [row for row in full_rows() if not (row.role == "student" and row.source == "distillable" and row.objective == "jsd")]
    for calibration in (0, 1):
        known = {"source": "distillable", "knob": 1.0, "calibration": calibration, "objective": "jsd", "decoding": "greedy"}
        budget = {"queries": 2000, "steps": 1000}
        fields = {"task": "maths", "split": "test", "role": "student", "student": "lab:maths/student", "prefix": "teacher"}
        rows.append(Row.model_validate({**fields, **known, "budget": budget, "metric": "accuracy", "value": None, "reason": why}))
    table = headline_table(results(rows))
    jsd = next(entry for entry in table if entry["kind"] == "students" and entry["objective"] == "jsd")
    assert [(cell["value"], cell["reason"]) for cell in jsd["cells"]["distillable"]] == [(None, why)] * 2
    folder = write_run(tmp_path, rows=rows, curves=False)
    shown = Page(build_report(folder).read_text(encoding="utf-8"))
    assert why in shown.text
    assert why in (folder / "report.md").read_text(encoding="utf-8")
    assert "the denominator's lower bound is under 0.10" in shown.text
    assert "missing" in headline_text(results(rows))


@pytest.mark.parametrize("kept", ["none", "plain teacher", "one student", "teachers", "one seed without a pooled row"])
def test_few_rows_are_enough_and_an_incomplete_run_says_so_loudly(tmp_path: Path, kept: str) -> None:
    rows = {
        "none": [],
        "plain teacher": list(teacher_rows("plain")),
        "one student": list(student_rows("plain", 0.5, "seqkd", seeds=1)),
        "teachers": [*teacher_rows("plain"), *teacher_rows("undistillable", 0)],
        "one seed without a pooled row": [row for row in student_rows("plain", 0.5, "seqkd", seeds=1) if row.seed is not None],
    }[kept]
    folder = write_run(tmp_path, rows=rows, complete=False, curves=False)
    for extra in ("samples.jsonl", "recipe.json", "manifest.json"):
        (folder / extra).unlink()
    shown = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "INCOMPLETE" in shown.text
    assert "INCOMPLETE" in (folder / "report.md").read_text(encoding="utf-8")
    assert ("div", "role", "alert") in shown.attributes
    assert headline_text(read_results(folder / "results.json")).startswith("INCOMPLETE")


def test_a_complete_run_raises_no_alarm(page: Page) -> None:
    assert "INCOMPLETE" not in page.text


def test_ten_thousand_rows_make_a_page_of_few_elements(tmp_path: Path) -> None:
    rows = full_rows()
    for calibration in range(200):
        rows += student_rows("plain_few_shot", 0.5, "seqkd", seeds=16, calibration=calibration)
    assert len(rows) > 10_000
    html = build_report(write_run(tmp_path, rows=rows, curves=False)).read_text(encoding="utf-8")
    assert len(html) < 6_000_000
    assert sum(Page(html).tags.values()) < 6_000  # the rows wait as data and are paged
    assert len(json.loads(Page(html).scripts[0])["rows"]) == len(rows)


def test_every_task_has_its_own_section_and_pictures(tmp_path: Path) -> None:
    rows = [*teacher_rows("plain"), *student_rows("plain", 0.5, "seqkd"), *student_rows("undistillable", 0.1, "seqkd", calibration=0)]
    other = [row.model_copy(update={"task": "knowledge/../x"}) for row in rows]
    folder = write_run(tmp_path, rows=[*rows, *other], curves=False)
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for key, value in (("queries", 2000), ("steps", 1000)):
        stored["run"][key]["knowledge/../x"] = value
    (folder / "results.json").write_text(json.dumps(stored), encoding="utf-8")
    shown = Page(build_report(folder).read_text(encoding="utf-8"))
    assert {file.name for file in (folder / "figures").glob("knob*.png")} == {"knob-1.png", "knob-2.png"}
    assert shown.text.count("The knob at a glance") == 2
    assert "knowledge/../x · undistillable" in shown.text


def test_a_task_that_cannot_check_steps_is_judged_by_accuracy(tmp_path: Path) -> None:
    def blind(row: Row) -> Row:
        return (
            row
            if row.metric != "right_steps"
            else row.model_copy(update={"value": None, "ci_low": None, "ci_high": None, "reason": "no steps"})
        )

    rows = [blind(row) for row in (*teacher_rows("plain"), *teacher_rows("undistillable", 0))]
    rows += [*student_rows("plain", 0.5, "seqkd"), *student_rows("undistillable", 0.1, "seqkd", calibration=0)]
    shown = Page(build_report(write_run(tmp_path, rows=rows, curves=False)).read_text(encoding="utf-8"))
    assert "The teacher's own accuracy: 0.987 before, 0.984 after (greedy)" in shown.text
    assert "no steps" in shown.text
    assert "accuracy greedy" in headline_text(results(rows))


def test_names_in_any_script_are_drawn(tmp_path: Path) -> None:
    rows = [*student_rows("plain", 0.5, "目的"), *student_rows("教師 $a_b$", 0.4, "目的", calibration=0)]
    folder = write_run(tmp_path, rows=rows, curves=False)
    assert "教師" in build_report(folder).read_text(encoding="utf-8")
    assert (folder / "figures" / "knob.png").is_file()


def test_verdicts_follow_the_rows() -> None:
    rows = [row for row in full_rows() if row.source != "undistillable_prefilled_oracle"]
    moved = {verdict.source: verdict for verdict in verdicts(Index(results(rows)))}
    assert (moved["undistillable"].outcome, moved["distillable"].outcome) == ("yes", "yes")
    assert "lowers the yield of the attacks tried" in moved["undistillable"].head
    assert "knob_0" not in moved
    still = [*student_rows("plain", 0.5, "seqkd"), *student_rows("undistillable", 0.5, "seqkd", calibration=0)]
    verdict = verdicts(Index(results(still)))[0]
    assert verdict.outcome == "no"
    assert verdict.head.startswith("undistillable (knob -1): not shown")
    assert verdicts(Index(results(list(teacher_rows("undistillable", 0)))))[0].outcome == "open"


def test_a_verdict_prefers_the_paired_difference_to_touching_intervals() -> None:
    rows = [*student_rows("plain", 0.5, "seqkd"), *student_rows("undistillable", 0.5, "seqkd", calibration=0)]
    paired = {
        "metric": "difference_to_plain",
        "value": -0.02,
        "ci_low": -0.03,
        "ci_high": -0.01,
        "decoding": "greedy",
        "objective": "seqkd",
    }
    rows.append(Row(task="maths", split="test", role="student", source="undistillable", knob=-1.0, calibration=0, **paired))
    assert verdicts(Index(results(rows)))[0].outcome == "yes"


def test_the_verdict_s_numbers_are_seen_at_a_glance(page: Page) -> None:
    rows = [*student_rows("plain", 0.5, "seqkd"), *student_rows("undistillable", 0.1, "seqkd", calibration=0)]
    rows += [
        *student_rows("undistillable_prefilled", 0.3, "seqkd", calibration=0),
        *teacher_rows("plain"),
        *teacher_rows("undistillable", 0),
    ]
    index = Index(results(rows))
    arm = index.arms("maths")[0]
    plain, lowered, elicited = (
        number(index.student_cells("maths", source, arm)[0].value) for source in ("plain", "undistillable", "undistillable_prefilled")
    )
    assert verdicts(index)[0].glance == (
        (f"{plain} → {lowered}", "students' accuracy: plain → this teacher"),
        ("0.987 → 0.984", "the teacher's own right steps: before → after"),
        (elicited, "students' accuracy by the strongest attack: generic prefill"),
    )
    assert "students' accuracy over the best free alternative [+0.090, +0.170]" in page.text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.05, "Ahead of the best free alternative by +0.050 [+0.040, +0.060]."),
        (0.0, "Not shown to be ahead of the best free alternative: +0.000 [-0.010, +0.010]."),
        (-0.05, "Behind the best free alternative: -0.050 [-0.060, -0.040]."),
    ],
)
def test_only_an_interval_above_0_is_ahead_of_what_is_free(value: float, told: str) -> None:
    rows = [*student_rows("plain", 0.5, "seqkd"), *student_rows("distillable", 0.9, "seqkd", calibration=0)]
    bounds = {"value": value, "ci_low": value - 0.01, "ci_high": value + 0.01, "decoding": "greedy", "objective": "seqkd"}
    rows.append(Row(task="maths", split="test", role="student", source="distillable", knob=1.0, metric="headline_up", **bounds))
    assert told in verdicts(Index(results(rows)))[0].detail


def test_an_elicitation_that_undoes_the_guard_is_in_the_verdict() -> None:
    rows = [*student_rows("plain", 0.5, "seqkd"), *student_rows("undistillable", 0.1, "seqkd", calibration=0)]
    assert verdicts(Index(results(rows)))[0].outcome == "yes"
    rows += student_rows("undistillable_prefilled", 0.5, "seqkd", calibration=0)
    verdict = verdicts(Index(results(rows)))[0]
    assert verdict.outcome == "partly"
    assert "not shown to withstand every attack (generic prefill)" in verdict.head


def test_no_promise_is_made(full: Path, page: Page) -> None:
    for text in (page.text, (full / "report.md").read_text(encoding="utf-8")):
        assert "cannot be distilled" not in text.lower()


def test_what_was_not_tested_is_worked_out_from_the_rows() -> None:
    def told(rows: list[Row]) -> str:
        return " ".join(line for _, lines in limits(Index(results(rows))) for line in lines)

    small = told([*student_rows("plain", 0.5, "seqkd", seeds=1), *student_rows("undistillable", 0.1, "seqkd", seeds=1, calibration=0)])
    for absent in ("One seed", "One calibration", "forward_kl", "Elicitation of undistillable", "four times the queries", "knowledge"):
        assert absent in small
    others = [objective for objective in OBJECTIVE_RECORDS if objective not in OBJECTIVES]
    whole = told([*full_rows(), *(row for objective in others for row in student_rows("plain", 0.5, objective))])
    for present in ("One seed", "One calibration", "Objectives not tried", "Elicitation of undistillable (", "plain, best of 8"):
        assert present not in whole
    assert "No attacker had access to weights" in whole  # top_k_* see what an interface to log-probabilities tells
    assert "access to top-k log-probabilities or weights" in small
    for way in ("Selection among several texts of undistillable", "Elicitation of undistillable by temperature"):
        assert way in small and way in whole
    chosen = told([*full_rows(), *student_rows("undistillable_likeliest_of_8", 0.2, "seqkd", calibration=0)])
    assert "Selection among" not in chosen and "by temperature" in chosen
    hot = told([*full_rows(), *student_rows("undistillable_hot", 0.2, "seqkd", calibration=0)])
    assert "by temperature" not in hot and "Selection among" in hot


def test_a_guard_whose_steps_nobody_sorted_lacks_that_attack() -> None:
    rows = [*full_rows(), *student_rows("knob_0_reordered", 0.9, "seqkd", calibration=0), *student_rows("plain_reordered", 0.9, "seqkd")]
    assert untried_attacks(Index(results(rows)), "maths")["reordering"] == ["undistillable"]
    tried = untried_attacks(Index(results([*rows, *student_rows("undistillable_reordered", 0.9, "seqkd", calibration=0)])), "maths")
    assert tried == {kind: ["undistillable"] for kind in ("temperature", "selection")}
    unguarded = [*student_rows("plain", 0.5, "seqkd"), *student_rows("distillable", 0.9, "seqkd", calibration=0)]
    assert untried_attacks(Index(results(unguarded)), "maths") == {}


def test_only_the_lab_s_tasks_are_planted() -> None:
    assert planted(["mine", "instructions", "maths"]) == ["maths", "instructions"]
    ours, others = (dict(limits(Index(results(full_rows())), families))["Task families"] for families in (["maths"], ["data"]))
    assert len(ours) == len(others) + 1


def test_a_line_cut_off_by_a_stop_is_passed_over_and_a_broken_one_is_not(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    metrics = folder / "calibrate" / "maths" / "undistillable" / "seed-0" / "metrics.jsonl"
    good = metrics.read_text(encoding="utf-8")
    metrics.write_text(good + '{"step": 61, "task_re', encoding="utf-8")
    read_run(folder)
    metrics.write_text("{broken\n" + good, encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1"):
        read_run(folder)


def test_without_results_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the evaluate stage first"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


# How it looks


def _luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(first: str, second: str) -> float:
    dark, light = sorted(map(_luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_of_the_page_has_a_name_in_both_themes_and_can_be_read() -> None:
    style = (files("distillability.report") / "templates" / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark = (dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    assert light.keys() == dark.keys()
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "#" not in re.sub(r":root \{.*?\}", "", style, flags=re.DOTALL), "a colour without a name is the same in both themes"
    assert set(re.findall(r"var\((--[a-z-]+)\)", style)) == light.keys()
    for theme in (light, dark):
        for text in ("--ink", "--soft", "--good", "--bad"):
            assert min(_contrast(theme[text], theme[ground]) for ground in ("--paper", "--wash")) > 4.5, text
        assert _contrast(theme["--ink"], theme["--alarm"]) > 4.5
        assert min(_contrast(theme[large], theme["--wash"]) for large in ("--up", "--down")) > 3  # large letters and marks


def test_the_modes_of_every_calibration_are_drawn(full: Path) -> None:
    contents = read_run(full)

    def rows(curves: list[Curve]) -> list[tuple[str, list[int]]]:
        """Each row's name and how many areas each of its panels holds."""
        drawn = calibration_picture(Index(contents.results), "maths", curves, None)
        assert drawn is not None
        panels = drawn[0].axes
        return [
            (panels[start].get_ylabel().replace("\n", " "), [len(panel.collections) for panel in panels[start : start + 3]])
            for start in range(0, len(panels), 3)
        ]

    shares = [(f"modes, shares (calibration #{number})", [4, 4, 4]) for number in (1, 2)]
    assert rows(contents.curves)[4:] == shares
    once = [curve for curve in contents.curves if not (curve.source == "knob_0" and curve.calibration)]
    assert rows(once)[5] == (shares[1][0], [4, 0, 4])
    plain = [replace(curve, lines=[{**line, "modes": {}} for line in curve.lines]) for curve in contents.curves]
    assert len(rows(plain)) == 4


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    rows: list[Row] = []
    for source in ("plain", "distillable", "undistillable"):
        for queries in (2000, 8000):
            rows += student_rows(source, 0.5, "seqkd", calibration=None if source == "plain" else 0, budget=(queries, 1000))
    drawn = queries_picture(Index(results(rows)), "maths")
    assert drawn is not None
    places = sorted(text.xy[1] for text in drawn[0].axes[0].texts)
    assert len(places) == 3
    assert min(b - a for a, b in pairwise(places)) > 0.06


def test_the_machine_s_paths_stay_out(full: Path, page: Page) -> None:
    assert "/home/someone" not in page.text
    assert "…/lab.toml" in page.text
    assert "/home/someone" not in (full / "report.md").read_text(encoding="utf-8")
    assert short_path("--out=/a/b/c runs/x /a") == "--out=…/c runs/x /a"


def test_numbers() -> None:
    assert number(None) == "missing"
    assert number(0.0) == number(-0.0001) == "0.000"
    assert number(1 / 3) == "0.333"
    assert (signed(0.0), signed(-0.0001), signed(-0.001), signed(None)) == ("+0.000", "+0.000", "-0.001", "missing")
    assert visible("a\x00b\u202ec\nd") == "a\\u0000b\\u202ec\nd"
    assert visible("x" * 30, 10) == "x" * 10 + " … (20 more characters)"
    assert markdown("a|b<c>\n`d`") == "a\\|b&lt;c&gt; ⏎ \\`d\\`"


def test_the_terminal_s_headline_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, distillability.report; print([name for name in ('torch', 'matplotlib', 'jinja2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
