"""One run in two processes, started as `accelerate launch` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ROOT, SMOKE, invoke
from processes import Done, run_in_processes

SMALLER = {
    "tasks.maths.queries": "8",
    "calibrate.teachers": "{ distillable = { knob = 1.0 } }",
    "distill.arms": '[{ sources = ["plain", "distillable"], objectives = ["forward_kl"] }, { sources = ["plain_best_of_8"] }]',
}


def _arguments(folder: Path) -> list[str]:
    sets = [part for key, value in SMALLER.items() for part in ("--set", f"{key}={value}")]
    return ["run", str(SMOKE), *sets, "--out", str(folder)]


def _launched(folder: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    command = [*launcher, "-m", "distillability", *_arguments(folder)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=500, check=False
    )


def _again(folder: Path, *arguments: str) -> list[Done]:
    environment = {"ACCELERATE_USE_CPU": "true"}
    return run_in_processes(invoke, *_arguments(folder), *arguments, processes=2, environment=environment, cwd=ROOT)


@pytest.mark.slow
def test_two_processes_do_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = _launched(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    results = json.loads((folder / "results.json").read_text())
    assert results["run"]["complete"]
    assert (folder / "report.html").is_file()
    assert done.stdout.count("run folder:") == 1  # one process speaks
    (metrics,) = (folder / "calibrate").rglob("metrics.jsonl")
    assert len(metrics.read_text().splitlines()) == 2
    proofs = {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    again = _again(folder, "--resume")
    assert [each.returncode for each in again] == [0, 0], again[0].stderr[-6000:]
    assert proofs == {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    refused = _again(folder)
    assert refused[0].returncode == 2
    assert "the folder is in use" in refused[0].stderr
