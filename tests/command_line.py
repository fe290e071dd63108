"""The real command line, on the smoke recipe of the lab's maths family."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from processes import Done, run_in_processes

__all__ = ["ROOT", "SMOKE", "invoke", "run", "without_times"]

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "recipes" / "smoke" / "maths.toml"


def run(*arguments: str, check: bool = True, cwd: Path = ROOT) -> Done:
    """`distillability` with these arguments, in the repository unless told otherwise; it must succeed unless `check` is off."""
    (done,) = run_in_processes(invoke, *arguments, cwd=cwd)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def invoke(*arguments: str) -> None:
    """The command, in the process that calls; it does not return."""
    from distillability.cli import main

    sys.argv = ["distillability", *arguments]
    main()


def without_times(folder: Path) -> dict[str, Any]:
    """A run's results.json with all that two equal runs may differ in taken out: seconds."""
    found = json.loads((folder / "results.json").read_text())
    found["run"].pop("seconds")
    for row in found["rows"]:
        row.pop("seconds", None)
        if row["metric"] == "calibration_seconds":
            row["value"] = None
    return dict(found)
