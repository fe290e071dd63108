"""One run in several processes, as `accelerate launch` and `torchrun` start them: who does what, and who waits for whom.

Process 0 makes the run folder and writes what is written once. Training is done by all together; all other jobs are dealt out. The proof
files of jobs, on a disk that all can see, are what processes wait for: some jobs take longer than an exchange may last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["is_main", "rank", "wait_for", "wait_for_all", "world_size"]


def rank() -> int:
    """The number of this process, 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes do this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if world_size() > 1:
        from accelerate import PartialState

        from distillability.models.load import default_device

        PartialState(cpu=default_device().type == "cpu").wait_for_everyone()  # asked without, it takes processors for one process


def wait_for(files: Iterable[Path], every: float = 0.2) -> None:
    """Go on once these files exist; whoever starts the processes ends them all where one fails."""
    for file in files:
        while not file.exists():
            time.sleep(every)
