"""One run in two processes, started as `accelerate launch` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ROOT, SMOKE

SMALLER = {
    "tasks.maths.queries": "8",
    "calibrate.teachers": "{ distillable = { knob = 1.0 } }",
    "distill.arms": '[{ sources = ["plain", "distillable", "plain_best_of_8"], objectives = ["seqkd", "forward_kl"] }]',
}


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
        "--standalone",
        "-m",
        "distillability",
    ]
    sets = [part for key, value in SMALLER.items() for part in ("--set", f"{key}={value}")]
    command = [*launcher, "run", str(SMOKE), *sets, "--out", str(folder), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.slow
def test_two_processes_do_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = _run(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    results = json.loads((folder / "results.json").read_text())
    assert results["run"]["complete"]
    assert (folder / "report.html").is_file()
    assert done.stdout.count("run folder:") == 1  # one process speaks
    (metrics,) = (folder / "calibrate").rglob("metrics.jsonl")
    assert len(metrics.read_text().splitlines()) == 2
    proofs = {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    again = _run(folder, "--resume")
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-6000:]
    assert proofs == {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    refused = _run(folder)
    assert refused.returncode != 0
    assert "the folder is in use" in refused.stderr
