"""`distillability lm-eval`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillability.cli.console import guarded, say, say_json
from distillability.cli.execute import require_torch
from distillability.cli.options import Debug, Json, Quiet

if TYPE_CHECKING:
    from distillability.results import Row

__all__ = ["lm_eval"]


class Role(StrEnum):
    """Who the model is, in the rows."""

    teacher = "teacher"
    student = "student"


def lm_eval(
    tasks: Annotated[str, typer.Argument(metavar="TASK[,TASK]", help="lm-eval task names, or YAML files.", show_default=False)],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, hub id or .gguf file.", show_default=False)],
    role: Annotated[Role, typer.Option(help="Role of the model in the result rows.")] = Role.teacher,
    include_path: Annotated[Path | None, typer.Option(help="Folder with your own task files.", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate at most this many documents per task.", show_default=False)] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Number of few-shot examples. Default: the task's own.", show_default=False)
    ] = None,
    as_chat: Annotated[bool, typer.Option("--chat/--plain", help="Render prompts with the chat template, or as plain text.")] = True,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Seed for the choice of few-shot examples.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Also write the rows to this file, in the format of results.json.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a model on tasks of the lm-evaluation-harness."""
    with guarded(debug=debug, as_json=json):
        require_torch("evaluating a model")
        _require_writable(out)
        from distillability import __version__
        from distillability.evaluation.lm_eval import evaluate_on_tasks
        from distillability.models.load import load_model
        from distillability.results import Results, RunInfo, write_results

        found = evaluate_on_tasks(
            load_model(model),
            tasks.split(","),
            role=role.value,
            include_path=include_path,
            limit=limit,
            num_fewshot=num_fewshot,
            as_chat=as_chat,
            batch_size=batch_size,
            seed=seed,
        )
        run = RunInfo(name="lm-eval", recipe_digest="", version=__version__, complete=limit is None, notes=found.notes)
        results = Results(run=run, rows=found.rows)
        if out is not None:
            write_results(results, out)
        if json:
            say_json(results.model_dump(mode="json", by_alias=True))
        elif not quiet:
            say("\n".join([f"lm-eval {found.notes['lm_eval']}, {model}", *map(_line, found.rows)]))


def _require_writable(out: Path | None) -> None:
    """Before anything is evaluated."""
    from distillability.errors import UserError

    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        what = "is a folder" if out.is_dir() else "lies in a folder that does not exist"
        raise UserError.single(f"--out {out}", what, "name a file in a folder that is there")


def _line(row: Row) -> str:
    if row.value is None:
        return f"  {row.task}  {row.metric}  –  ({row.reason})"
    interval = "" if row.ci_low is None else f" [{row.ci_low:.4g}, {row.ci_high:.4g}]"
    return f"  {row.task}  {row.metric}  {row.value:.4g}{interval}  n = {row.n}"
