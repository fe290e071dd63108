"""`distillability sweep` on the lab's models: three knobs, two steps of everything, and a run that lost its end and is resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillability.results import read_results

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke" / "maths.toml"
SMALL = ["--knobs", "-0.3,0,1", "--set", "sweep.seeds=2", "--set", "sweep.ends_objectives=['forward_kl']"]


def _run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distillability", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "sweep"
    _run("sweep", str(SMOKE), "--out", str(folder), *SMALL)
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
        assert ((name, "forward_kl", 0) in students) == (name != "knob_0")
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
    assert "maths: " in _run("show", str(swept)).stdout


def test_what_is_lost_is_made_again_and_nothing_else(swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(swept, folder)
    for lost in ("results.json", "report.html", "calibrate/maths/knob_1", "evaluate/maths/teachers", "distill/maths/knob_1"):
        path = folder / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not (folder / "results.json").exists()
    kept = folder / "calibrate" / "maths" / "knob_0" / "seed-0" / "done.json"
    before = kept.stat().st_mtime_ns
    _run("sweep", str(SMOKE), "--out", str(folder), "--resume", *SMALL)
    assert kept.stat().st_mtime_ns == before
    assert _without_times(folder) == _without_times(swept)
    again = _run("sweep", str(folder))  # the folder alone is enough
    assert "calibrate: 3 of 3 already done" in again.stderr


def test_other_knobs_cannot_resume_it(swept: Path) -> None:
    done = _run("sweep", str(SMOKE), "--out", str(swept), "--resume", *SMALL, "--set", "sweep.seeds=1", check=False)
    assert done.returncode == 2
    assert "the recipe has changed since the run began: sweep.seeds (2 in the run, 1 now)" in done.stderr
    done = _run("run", str(SMOKE), "--out", str(swept), "--resume", check=False)
    assert done.returncode == 2 and "calibrate.teachers" in done.stderr


def _without_times(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "results.json").read_text())
    found["run"].pop("seconds")
    for row in found["rows"]:
        row.pop("seconds")
        if row["metric"] == "calibration_seconds":
            row["value"] = None
    return dict(found)
