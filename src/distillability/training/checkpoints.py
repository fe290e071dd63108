"""Checkpoints: which are whole, which one a calibration ends with, saving, and a metrics file that a resumed run goes on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer

from distillability.errors import UserError
from distillability.files import new_folder, write_jsonl
from distillability.models.load import LoadedModel, load_model
from distillability.ops.sharding import load_whole
from distillability.training.lora import adapter_of, save_merged

__all__ = ["Checkpoint", "MetricsFile", "go_back", "last_checkpoint", "on_a_full_disk", "prune", "save", "whole_checkpoints"]

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


@contextmanager
def on_a_full_disk(folder: Path) -> Iterator[None]:
    """Say so, in words, where a writer finds no room; what was whole before is whole still.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        fix = "free some space, then go on with --resume: it continues from the last whole checkpoint"
        raise UserError.single(str(folder), f"cannot be written: {error}", fix) from error


def _is_full(error: Exception) -> bool:
    """safetensors and torch have errors of their own for it, without a number."""
    said = str(error)
    numbered = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return numbered or "No space left on device" in said or "PytorchStreamWriter failed writing" in said


def go_back(
    trainer: GRPOTrainer,
    loaded: LoadedModel,
    folder: Path,
    *,
    may_keep: Callable[[int], bool],
    first_adapter: dict[str, torch.Tensor] | None,
) -> int:
    """Load the last checkpoint in `folder` whose step may be kept, the original teacher where there is none; returns its step.

    first_adapter: the adapter of before the first step, where one is trained.
    """
    kept = [checkpoint for checkpoint in whole_checkpoints(folder) if may_keep(checkpoint.step)]
    path = kept[-1].path if kept else None
    policy = trainer.accelerator.unwrap_model(trainer.model)
    if first_adapter is not None:
        load_whole(policy, adapter_of(policy, path, first_adapter))
    else:
        source = path or trainer.model.config._name_or_path
        load_whole(policy, load_model(source, trust_remote_code=loaded.trust_remote_code).model.state_dict())
    trainer.accelerator.wait_for_everyone()  # whoever is done with a calibration removes its checkpoints
    return kept[-1].step if kept else 0


def save(trainer: GRPOTrainer, path: Path, *, merge: bool) -> None:
    """The policy as an ordinary folder, whole or not at all; one process writes.

    merge: an adapter into the weights, after which the trainer is of no more use.
    """
    with new_folder(path) if trainer.accelerator.is_main_process else nullcontext(path) as folder:
        if not merge:
            trainer.save_model(str(folder))
        elif trainer.accelerator.is_main_process:
            save_merged(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, folder)
