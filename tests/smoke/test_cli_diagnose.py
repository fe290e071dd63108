"""`distillability diagnose` on the lab's models: the plain teacher alone, then whatever a run has left."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import SMOKE, run
from distillability.results import read_results

SMALL = [
    "--set=diagnose={prompts=24,weight_prompts=2,weight_samples=4,probe_steps=2,probe_traces=8,sources=['plain_greedy']}",
    "--set=distill.arms=[{sources=['plain','distillable'],objectives=['seqkd']},{sources=['gold_steps']}]",
    "--set=calibrate.teachers={distillable={knob=1.0}}",
]


def test_a_plain_teacher_is_diagnosed_before_anything_else_and_the_rest_when_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = run("diagnose", str(SMOKE), "--out", str(folder), *SMALL).stdout
    assert "before distillation" in said and "remedy" in said
    assert {file.relative_to(folder / "diagnose").as_posix() for file in (folder / "diagnose").rglob("*.json")} == {
        "maths/plain/before.json",
        "maths/plain_greedy/before.json",
    }
    assert "Distil from" in said
    for page in ("report.html", "report.md"):
        shown = (folder / page).read_text(encoding="utf-8")
        assert "A diagnosis alone" in shown and "INCOMPLETE" not in shown and "nothing to judge" not in shown
    alone = json.loads((folder / "diagnose/maths/plain_greedy/before.json").read_text())
    assert [finding["name"] for finding in alone["findings"]] == ["distillability"] and alone["findings"][0]["details"]["probe"] == "proxy"
    assert alone["cost"]["forwards"] == {"proxy": 2 * 4 + 24}
    found = json.loads((folder / "diagnose/maths/plain/before.json").read_text())
    assert found["cost"]["forwards"]["teacher"] > 0 and found["probe"]["steps"] == 2
    run("run", str(folder))
    files = {file.relative_to(folder / "diagnose/maths").as_posix() for file in (folder / "diagnose").rglob("*.json")}
    teachers = {"plain/before.json", "distillable/before.json"}
    students = {"plain/seqkd/seed-0.json", "distillable/seqkd/seed-0.json", "gold_steps/seqkd/seed-0.json"}
    assert files == teachers | students | {"plain_greedy/before.json", "gold_steps/before.json"}
    results = read_results(folder / "results.json")
    rows = {(row.source, row.objective, row.metric) for row in results.rows if row.split == "validate"}
    assert {("plain", None, "noise_share"), ("distillable", None, "log_ratio"), ("distillable", "seqkd", "lost_recovery")} <= rows
    assert results.run.complete
    assert ("gold_steps", None, "distillability") in rows
    page = (folder / "report.html").read_text()
    assert "A diagnosis alone" not in page and "Diagnosis" in page and "What students can be expected to reach" in page


def test_a_recipe_without_the_section_runs_without_a_diagnosis() -> None:
    from distillability.config.load import load_recipe
    from distillability.stages import STAGES
    from distillability.stages.run import asked

    recipe = load_recipe(SMOKE)
    assert recipe.diagnose is None
    assert "diagnose" not in asked(recipe, STAGES)
    assert asked(recipe, ("diagnose", "report")) == ["diagnose", "report"]
