"""The paper-scale recipes, run whole with tiny random models of their architectures, by one `--set`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from command_line import ROOT, run

sys.path.insert(0, str(ROOT / "scripts"))
from tiny_models import write

PAPER = ROOT / "recipes" / "paper"


@pytest.mark.parametrize(("recipe", "architecture"), [("gemma", "gemma3"), pytest.param("qwen", "qwen3", marks=pytest.mark.slow)])
def test_two_steps_of_everything(tmp_path: Path, recipe: str, architecture: str) -> None:
    write(architecture, tmp_path / "tiny")
    run("run", str(PAPER / f"{recipe}.toml"), "--set", str(PAPER / "tiny.toml"), "--out", "out", "--quiet", cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["run"]["complete"]
    students = {(row["source"], row["objective"]) for row in results["rows"] if row["role"] == "student" and row["source"] != "none"}
    assert students >= {(source, objective) for source in ("plain", "distillable", "undistillable") for objective in ("seqkd", "jsd")}


def test_what_is_missing_for_a_paper_recipe_is_said_at_once(tmp_path: Path) -> None:
    done = run("validate", str(PAPER / "gemma.toml"), check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "open-r1/Big-Math-RL-Verified-Processed" in done.stderr
    for role in ("teacher", "proxy", "student"):
        assert f"tasks.bigmath.{role}" in done.stderr
