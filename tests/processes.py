"""Processes of their own, forked from one that has imported what all need: importing takes longer than most of what tests do in them."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["Done", "run_in_processes", "start_process"]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "distillability.stages.run",
        "distillability.config.sweep",
        "distillability.cli",
        "distillability.report.build",
        "transformers.models.llama.modeling_llama",
        "transformers.models.qwen3.modeling_qwen3",
    ]
)


@dataclass(frozen=True)
class Done:
    """What a process left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_in_processes(
    target: Callable[..., None],
    *arguments: Any,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    limit: float = 500.0,
) -> list[Done]:
    """`target(*arguments)` in so many processes, which know of one another what torchrun tells; one that fails ends the others.

    Args:
        target: a function of a module.
        environment: beside that of this process.
        limit: seconds.
    """
    with TemporaryDirectory() as folder:
        common, port = {**os.environ, **(environment or {})}, _free_port()
        ranks = [common if processes == 1 else common | _as_torchrun(rank, processes, port) for rank in range(processes)]
        said = [(Path(folder) / f"{rank}.out", Path(folder) / f"{rank}.err") for rank in range(processes)]
        started = [
            _FORKS.Process(target=_child, args=(target, arguments, own, cwd or Path.cwd(), paths))
            for own, paths in zip(ranks, said, strict=True)
        ]
        for process in started:
            process.start()
        _wait(started, time.monotonic() + limit)
        codes = [process.exitcode or 0 for process in started]
        return [Done(code, *(path.read_text(encoding="utf-8") for path in paths)) for code, paths in zip(codes, said, strict=True)]


def start_process(target: Callable[..., None], *arguments: Any, cwd: Path) -> Any:
    """`target(*arguments)` in a process that the caller ends; nobody sees what it prints."""
    process = _FORKS.Process(target=_child, args=(target, arguments, dict(os.environ), cwd, [Path(os.devnull)] * 2))
    process.start()
    return process


def _free_port() -> int:
    """Below those that the system gives to whoever asks for any: it is some time until the first process takes it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _as_torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _wait(started: Sequence[Any], deadline: float) -> None:
    while any(process.exitcode is None for process in started):
        if time.monotonic() > deadline or any(process.exitcode for process in started):
            for process in started:
                process.kill()
        for process in started:
            process.join(0.1)


def _child(target: Callable[..., None], arguments: Sequence[Any], environment: dict[str, str], cwd: Path, said: Sequence[Path]) -> None:
    for stream, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    target(*arguments)
    sys.stdout.flush()
