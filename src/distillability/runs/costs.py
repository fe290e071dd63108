"""What each job took: a line of `costs.jsonl` when it ends, and their sum by kind of work in the manifest."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillability.files import read_jsonl, write_jsonl
from distillability.runs.malloc import give_back_freed_memory

__all__ = ["Cost", "append_cost", "begin_memory", "highest_memory", "read_costs", "sum_costs"]


@dataclass(frozen=True)
class Cost:
    """What one job took.

    Attributes:
        kind: of work, the same for all jobs whose costs are comparable.
        tokens: of completions that the job wrote or learnt from, every visit counted; None where it counts none.
        memory: most bytes of its process that were resident while it ran (of an accelerator: that were allocated there); None where the
            system does not say.
    """

    stage: str
    kind: str
    title: str
    seconds: float
    tokens: int | None
    memory: int | None


def begin_memory() -> None:
    """Forget what was resident or allocated before; where the system cannot, the highest since the process began is what counts."""
    give_back_freed_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets the peak of the resident set
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()


def highest_memory() -> int | None:
    """Bytes at the highest since `begin_memory`."""
    if (cuda := _cuda()) is not None:
        return int(cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def _cuda() -> Any:
    """`torch.cuda` where this process has loaded torch and found a device."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def append_cost(file: Path, cost: Cost) -> None:
    """Add one line; the file is whole at any time."""
    write_jsonl(file, map(asdict, [*read_costs(file), cost]))


def read_costs(file: Path) -> list[Cost]:
    """All lines so far; none where there is no such file."""
    return [Cost(**row) for row in read_jsonl(file)] if file.is_file() else []


def sum_costs(costs: Iterable[Cost]) -> list[dict[str, Any]]:
    """One entry a kind of work, in the order of their first jobs.

    Seconds are of processes, so that two that worked side by side count twice; tokens are None where a job of the kind counts none; memory
    is the highest of one process.
    """
    kinds: dict[tuple[str, str], list[Cost]] = {}
    for cost in costs:
        kinds.setdefault((cost.stage, cost.kind), []).append(cost)
    return [
        {
            "stage": stage,
            "kind": kind,
            "jobs": len(jobs),
            "seconds": sum(job.seconds for job in jobs),
            "tokens": None if any(job.tokens is None for job in jobs) else sum(job.tokens or 0 for job in jobs),
            "memory": max((job.memory for job in jobs if job.memory is not None), default=None),
        }
        for (stage, kind), jobs in kinds.items()
    ]
