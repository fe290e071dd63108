"""`distillability report`."""

from __future__ import annotations

from distillability.cli.console import guarded, say, say_json
from distillability.cli.options import Debug, Folder, Json, Quiet

__all__ = ["report"]


def report(folder: Folder, quiet: Quiet = False, json: Json = False, debug: Debug = False) -> None:
    """Write report.md and report.html of a run."""
    with guarded(debug=debug, as_json=json):
        from distillability.runs.folder import RunFolder

        run = RunFolder.open(folder)
        from distillability.report import build_report

        written = build_report(run.path)
        if json:
            say_json({"report": str(written)})
        elif not quiet:
            say(f"report: {written}")
