"""How benchmarks measure: contestants take turns in one process, memory in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

__all__ = ["Stepper", "alternate", "peak_extra_memory"]


def alternate(functions: Mapping[str, Callable[[], Any]], rounds: int, *, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each function.

    In every round each is called once, the first of one round being the last of the next, so that a slow minute of the machine falls on
    all of them. The calls of the warm-up are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(-warmup, rounds):
        names = list(functions)
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            gc.collect()
            started = time.perf_counter()
            functions[name]()
            if round_ >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def peak_extra_memory(prepare: Callable[..., Callable[[], Any]], *args: Any) -> int:
    """Bytes that a call needs at its worst beyond what was there before, measured in a fresh process.

    Args:
        prepare: a function at the top of a module, called there with `args`; what it returns is the call to be measured. What should not
            count, such as weights, inputs and the loading of libraries, is its work.
    """
    context = multiprocessing.get_context("spawn")
    found: Any = context.SimpleQueue()
    process = context.Process(target=_measure, args=(found, prepare, args))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{prepare.__name__}{args} ended with exit code {process.exitcode}")
    return int(found.get())


def _measure(found: Any, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    call = prepare(*args)
    gc.collect()
    before = _resident(reset=True)
    call()
    found.put(_resident(reset=False) - before)


def _resident(*, reset: bool) -> int:
    """The highest resident set of this process so far, in bytes; where the system can, since the last reset."""
    status = Path("/proc/self/status")
    if status.is_file():
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Stepper(TrainerCallback):
    """A trainer that takes one optimiser step a call, so that trainers can take turns.

    It trains in a thread of its own. A call lasts from the beginning of a step to the beginning of the next: one update and one drawing of
    batches and rollouts, wherever a trainer has put them.
    """

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._go, self._reached = threading.Semaphore(0), Queue[BaseException | None]()
        self._closed = False
        self._thread = threading.Thread(target=self._train, args=(torch.get_num_threads(),), daemon=True)
        trainer.add_callback(self)
        self._thread.start()
        self._wait()

    def __call__(self) -> None:
        self._go.release()
        self._wait()

    def close(self) -> None:
        """End the training where it stands."""
        self._closed = True
        self._go.release()
        self._thread.join()

    def on_step_begin(self, *args: Any, **_: Any) -> None:
        self._reached.put(None)
        self._go.acquire()
        if self._closed:
            raise SystemExit

    def _train(self, threads: int) -> None:
        torch.set_num_threads(threads)  # it holds for one thread only
        try:
            self._trainer.train()
            raise RuntimeError("the trainer has no steps left")
        except SystemExit:
            return
        except BaseException as error:
            self._reached.put(error)

    def _wait(self) -> None:
        error = self._reached.get()
        if error is not None:
            raise error
