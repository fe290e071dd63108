"""Going on from where a killed run stopped: whole checkpoints only, and a metrics file without lines from the future."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillability.files import write_jsonl

__all__ = ["Checkpoint", "MetricsFile", "last_checkpoint", "prune", "whole_checkpoints"]

# `trainer_state.json` alone does not prove a whole checkpoint: a kill can fall between any two of these files.
_PARTS = ("trainer_state.json", "scheduler.pt")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "latest")  # the Trainer's own, FSDP's, and what DeepSpeed writes last
_NEWEST = 4  # that stay in any case
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint of a transformers Trainer."""

    path: Path
    step: int


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder` that was written whole; None where there is none."""
    found = whole_checkpoints(folder)
    return found[-1] if found else None


def whole_checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints in `folder` that were written whole, oldest first."""
    found = [
        Checkpoint(path, int(path.name.removeprefix("checkpoint-")))
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and _is_whole(path)
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def prune(folder: Path, *, keep: Callable[[int], bool]) -> None:
    """Delete old checkpoints: all but the newest ones, and the newest of those whose step is to be kept."""
    found = whole_checkpoints(folder)
    wanted = [checkpoint for checkpoint in found if keep(checkpoint.step)][-1:]
    for checkpoint in found[:-_NEWEST]:
        if checkpoint not in wanted:
            shutil.rmtree(checkpoint.path)


def _is_whole(path: Path) -> bool:
    if not all((path / part).is_file() for part in (*_PARTS, *_generators())):
        return False
    if not all(any((path / part).is_file() for part in either) for either in (_OPTIMIZER, _WEIGHTS)):
        return False
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True


def _generators() -> list[str]:
    """The files in which the processes of this run (as torchrun counts them) keep their random generators."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]


class MetricsFile:
    """An append-only JSONL file, one line a step; lines after `keep_to_step` are dropped when it is opened.

    Attributes:
        rows: all lines so far.
        writes: whether this process is the one that writes; the others keep the same rows and leave the file alone.
    """

    def __init__(self, path: Path, keep_to_step: int = 0, *, writes: bool = True):
        self.path, self.writes = path, writes
        self.rows = [row for row in _whole_lines(path) if row["step"] <= keep_to_step]
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Write one line and flush it."""
        self.rows.append(row)
        if self.writes:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row, allow_nan=False) + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of `path`; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line.strip()]
