"""`distillability plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from distillability.cli.console import guarded, printable, say, say_json
from distillability.cli.options import Debug, Json, RecipeFile, Set

if TYPE_CHECKING:
    from rich.table import Table

    from distillability.config.recipe import Recipe
    from distillability.planning.hardware import Hardware
    from distillability.planning.memory import Memory
    from distillability.planning.plan import Plan

__all__ = ["plan"]


def plan(
    recipe: RecipeFile,
    set_: Set = [],  # noqa: B006 - typer reads the default and never changes it
    hardware: Annotated[
        str,
        typer.Option(
            metavar="NAME[xN]", help="a100, h100, h200, l40s or rtx4090, xN for several; `this` measures the processor here, never a GPU."
        ),
    ] = "this",
    utilisation: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Fraction of the peak rate that is reached. Default: a guess for the hardware.")
    ] = None,
    usd_per_hour: Annotated[float | None, typer.Option(min=0, help="Price of one device-hour.", show_default=False)] = None,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="Weights, gradients and optimiser state are sharded over devices (FSDP, ZeRO-3).")
    ] = False,
    prompt_length: Annotated[
        int | None, typer.Option(min=1, help="Mean prompt length in tokens. Default: measured on the data.", show_default=False)
    ] = None,
    completion_length: Annotated[
        int | None, typer.Option(min=1, help="Mean completion length in tokens. Default: max_completion_length.", show_default=False)
    ] = None,
    distinct: Annotated[float, typer.Option(min=0.01, max=1, help="Fraction of a prompt's completions that are distinct.")] = 1.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Estimate memory, tokens, hours and cost of a recipe."""
    with guarded(debug=debug, as_json=json):
        from distillability.config.load import load_recipe
        from distillability.planning.plan import Assumptions, plan_recipe

        checked = load_recipe(recipe, set_)
        machine = _hardware(hardware, checked, utilisation, usd_per_hour)
        planned = plan_recipe(checked, machine, Assumptions(prompt_length, completion_length, distinct, sharded))
        if json:
            say_json(planned.as_dict())
        else:
            _show(planned)


def _hardware(name: str, recipe: Recipe, utilisation: float | None, usd_per_hour: float | None) -> Hardware:
    from dataclasses import replace

    from distillability.planning.hardware import named_hardware, this_machine

    found = this_machine(recipe.workers) if name == "this" else named_hardware(name)
    found = found if utilisation is None else replace(found, utilisation=utilisation)
    return found if usd_per_hour is None else replace(found, usd_per_hour=usd_per_hour)


def _show(planned: Plan) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in _tables(planned):
        console.print(table)
    hardware = planned.hardware
    price = "" if planned.usd is None else f", {planned.usd:,.0f} USD at {hardware.usd_per_hour:g} an hour"
    for (task, stage), seconds in planned.stage_seconds.items():
        say(f"{task}, {stage}: {_duration(seconds)}")
    say(f"{_duration(planned.seconds)} in all on {hardware.devices} x {hardware.name}: {planned.device_hours:.2f} device-hours{price}")
    rates = [f"{hardware.flops[dtype] / 1e12:.3g} TFLOP/s ({dtype})" for dtype in dict.fromkeys(line.dtype for line in planned.lines)]
    say(f"at {hardware.utilisation:.0%} of {', '.join(rates)} and {hardware.bandwidth / 1e9:.4g} GB/s a device")
    for note in planned.notes:
        say(f"assumed: {note}")


def _tables(planned: Plan) -> Iterator[Table]:
    models = _table("model", "role", "task", "weights, M", "trained, M", numbers=2)
    for model in planned.models:
        trained = f"{model.trained / 1e6:,.1f}" if model.trained else "-"
        models.add_row(printable(model.reference), model.role, printable(model.task), f"{model.weights / 1e6:,.1f}", trained)
    yield models
    for task, stages in planned.memory.items():
        yield _memory_table(printable(task), stages, planned.hardware.memory)
    work = _table("stage", "part", "jobs", "dtype", "tokens, M", "FLOP", "a job", numbers=3)
    for line in planned.lines:
        total = line.total(planned.hardware.devices)
        amounts = f"{total.tokens / 1e6:,.2f}", f"{total.operations:.2e}", _duration(line.job_seconds(planned.hardware))
        work.add_row(line.stage, printable(f"{line.task}: {line.part}"), str(line.jobs), line.dtype, *amounts)
    yield work


def _memory_table(task: str, stages: dict[str, Memory], available: float) -> Table:
    table, memories = _table(f"GB on a device, {task}", "part", *stages, numbers=len(stages)), stages.values()
    rows = sorted({(phase, part) for memory in memories for phase, parts in memory.parts.items() for part in parts})
    for phase, part in rows:
        held = [memory.parts.get(phase, {}).get(part) for memory in memories]
        table.add_row(phase, part, *("" if value is None else f"{value / 1e9:,.2f}" for value in held))
    table.add_section()
    table.add_row("highest", f"of {available / 1e9:.0f} GB", *(_fits(memory.peak, available) for memory in memories))
    return table


def _fits(peak: float, available: float) -> str:
    return f"{peak / 1e9:,.2f}{'' if peak <= available else ' (too much)'}"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _table(*columns: str, numbers: int) -> Table:
    """A table whose last columns are numbers."""
    from rich.table import Table

    table = Table()
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index >= len(columns) - numbers else "left")
    return table
