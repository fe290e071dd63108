"""`distillability show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillability.cli.console import guarded, say, say_json
from distillability.cli.options import Debug, Folder, Json

if TYPE_CHECKING:
    from distillability.results import Results
    from distillability.runs.folder import RunFolder

__all__ = ["show", "summarise"]


def show(folder: Folder, json: Json = False, debug: Debug = False) -> None:
    """Print the headline of a run."""
    with guarded(debug=debug, as_json=json):
        from distillability.runs.folder import RunFolder

        summarise(RunFolder.open(folder), as_json=json)


def summarise(folder: RunFolder, *, as_json: bool) -> None:
    """Print what a run has come to.

    Raises:
        UserError: its results cannot be read.
    """
    from distillability.results import read_results

    path = folder.path / "results.json"
    results = read_results(path) if path.exists() else None
    if as_json:
        say_json(_summary(folder, results))
        return
    done = folder.finished()
    say(f"{folder.recipe.name}: {_state(results)} ({done['calibrate']} calibrated teachers, {done['distill']} students)")
    if results is not None:
        from distillability.report import headline_text

        say(f"\n{headline_text(results)}\n")
    from distillability.report import diagnosis_text

    diagnosed = diagnosis_text(folder.path)
    if diagnosed:
        say(f"{diagnosed}\n")
    report = folder.path / "report.html"
    say(f"report: {report}" if report.is_file() else "report: not written yet")


def _state(results: Results | None) -> str:
    if results is None:
        return "not evaluated yet"
    seconds = "" if results.run.seconds is None else f", {results.run.seconds:.0f} s"
    return f"{'complete' if results.run.complete else 'not complete'}{seconds}"


def _summary(folder: RunFolder, results: Results | None) -> dict[str, Any]:
    report = folder.path / "report.html"
    return {
        "name": folder.recipe.name,
        "folder": str(folder.path),
        "recipe_digest": folder.digest,
        "finished": folder.finished(),
        "report": str(report) if report.is_file() else None,
        "results": None if results is None else results.model_dump(mode="json", by_alias=True),
    }
