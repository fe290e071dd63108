"""What a run took, by kind of work, as its report shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillability.report import numbers

__all__ = ["Costs", "costs_of"]


@dataclass(frozen=True)
class Costs:
    """A line a kind of work, its cells as text; and the most memory that all processes can have held at once, None where not known."""

    lines: list[list[str]]
    memory: str | None


def costs_of(manifest: dict[str, Any], recipe: dict[str, Any]) -> Costs | None:
    """None where the manifest says nothing of jobs."""
    kinds: list[dict[str, Any]] = manifest.get("costs", [])
    total = sum(kind["seconds"] for kind in kinds)
    if not total:
        return None
    highest = max((kind["memory"] for kind in kinds if kind["memory"] is not None), default=None)
    workers = int(recipe.get("workers", 1))
    together = None if highest is None else f"{_gigabytes(highest * workers)} at most in all {workers} together"
    return Costs([_line(kind, total) for kind in kinds], together if workers > 1 else None)


def _line(kind: dict[str, Any], total: float) -> list[str]:
    """Work, jobs, seconds of processes, their share, tokens, tokens a second, memory."""
    tokens, seconds = kind["tokens"], kind["seconds"]
    return [
        f"{kind['stage']}: {kind['kind']}",
        f"{kind['jobs']:,}",
        numbers.duration(seconds),
        f"{seconds / total:.0%}",
        "not counted" if tokens is None else f"{tokens:,}",
        "–" if not tokens else f"{tokens / seconds:,.0f}",
        "not known" if kind["memory"] is None else _gigabytes(kind["memory"]),
    ]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
