"""`distillability sweep` on the lab's models: three knobs, two steps of everything, and a run that lost its end and is resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from command_line import SMOKE, run, without_times
from distillability.results import read_results

SMALL = ["--knobs", "-0.3,0,1", "--set", "sweep.seeds=2"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "sweep"
    run("sweep", str(SMOKE), "--out", str(folder), *SMALL)
    return folder


def test_every_knob_has_a_teacher_and_students(swept: Path) -> None:
    results = read_results(swept / "results.json")
    assert results.run.complete and results.run.name == "smoke-maths-sweep"
    knobs = {"knob_-0.3": -0.3, "knob_0": 0.0, "knob_1": 1.0}
    rows = [row for row in results.rows if row.source in knobs]
    assert {row.source: row.knob for row in rows} == knobs
    students = {(row.source, row.objective, row.seed) for row in results.rows if row.role == "student" and row.metric == "accuracy"}
    for name in ("plain", *knobs):
        assert {(name, "seqkd", 0), (name, "seqkd", 1)} <= students
    for name in knobs:
        model = swept / "calibrate" / "maths" / name / "seed-0" / "model"
        assert (model / "model.safetensors").is_file() and name in (model / "README.md").read_text(encoding="utf-8")


def test_the_sweep_s_own_rows_are_there_with_a_value_or_a_reason(swept: Path) -> None:
    rows = read_results(swept / "results.json").rows
    whole = {(row.metric, row.decoding) for row in rows if row.source == "sweep"}
    assert whole == {
        ("knob_order", "greedy"),
        ("knob_order", "sampled"),
        ("knob_levels_between", "greedy"),
        ("knob_levels_between", "sampled"),
        ("anchor_growth", "sampled"),
    }
    predicted = {row.source: row.value for row in rows if row.metric == "mode_shift_predicted"}
    assert predicted["knob_0"] == 0
    assert predicted["knob_1"] is not None and predicted["knob_-0.3"] is not None
    assert predicted["knob_-0.3"] == pytest.approx(-0.3 * predicted["knob_1"])
    flat = [row for row in rows if row.metric == "anchor_flat"]
    assert [(row.value, row.reason) for row in flat] == [(None, "2 steps with an anchor, 10 are needed")] * 3


def test_the_report_begins_with_the_knob_curve(swept: Path) -> None:
    assert (swept / "figures" / "curve.png").is_file()
    assert "figures/curve.png" in (swept / "report.md").read_text(encoding="utf-8")
    assert "maths: " in run("show", str(swept)).stdout


@pytest.mark.slow
def test_what_is_lost_is_made_again_and_nothing_else(swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(swept, folder)
    for lost in ("results.json", "report.html", "calibrate/maths/knob_1", "evaluate/maths/teachers", "distill/maths/knob_1"):
        path = folder / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not (folder / "results.json").exists()
    kept = folder / "calibrate" / "maths" / "knob_0" / "seed-0" / "done.json"
    before = kept.stat().st_mtime_ns
    again = run("sweep", str(folder))  # the folder alone is enough
    assert "calibrate: 2 of 3 already done" in again.stderr
    assert kept.stat().st_mtime_ns == before
    assert without_times(folder) == without_times(swept)


def test_other_knobs_cannot_resume_it(swept: Path) -> None:
    done = run("sweep", str(SMOKE), "--out", str(swept), "--resume", *SMALL, "--set", "sweep.seeds=1", check=False)
    assert done.returncode == 2
    assert "the recipe has changed since the run began: sweep.seeds (2 in the run, 1 now)" in done.stderr
    done = run("run", str(SMOKE), "--out", str(swept), "--resume", check=False)
    assert done.returncode == 2 and "calibrate.teachers" in done.stderr
