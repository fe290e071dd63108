"""The jobs of a stage: independent, each with a file that proves it is done, shared out over processes.

A job that finds its proof does nothing, which is what makes every stage resumable. Each process takes an equal share of the cores, so
that two workers on two cores train two students at once; on an accelerator one worker is the natural number.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillability.runs.costs import Cost, append_cost, begin_memory, highest_memory
from distillability.runs.malloc import keep_freed_memory
from distillability.runs.processes import is_main, rank, wait_for, wait_for_all, world_size

__all__ = ["Job", "Workers", "open_workers", "share_of_cores"]


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        title: for the progress line.
        proof: the file whose existence means that the job is done; the function writes it last.
        kind: of work: jobs of one kind are comparable in what they take.
        function: a module-level function, called with `arguments`; returns how many tokens of completions it wrote or learnt from, None
            where it counts none.
        together: where a run has several processes, all of them do it, each its part.
        trains_alone: it trains by itself. A trainer takes all processes of a run for its own, so where there are several it gets another.
    """

    title: str
    proof: Path
    kind: str
    function: Callable[..., int | None]
    arguments: dict[str, Any]
    together: bool = False
    trains_alone: bool = False


@dataclass
class Workers:
    """Runs jobs, in this process or in several, and writes down what each took (of a run of several processes: those of the first)."""

    pool: ProcessPoolExecutor | None
    report: Callable[[str], None]
    costs: Path

    def run(self, stage: str, jobs: Sequence[Job]) -> None:
        """Run what is not done yet. The first failure ends the stage; jobs already running finish and keep their results."""
        waiting = [job for job in jobs if not job.proof.exists()]
        wait_for_all()  # before anybody finishes one of them
        if len(waiting) < len(jobs):
            self.report(f"{stage}: {len(jobs) - len(waiting)} of {len(jobs)} already done")
        started = time.perf_counter()
        for count, cost in enumerate(self._finished(stage, waiting), start=1):
            if is_main():
                append_cost(self.costs, cost)
            left = (time.perf_counter() - started) / count * (len(waiting) - count)
            rate = "" if not cost.tokens else f", {cost.tokens / cost.seconds:,.0f} tokens a second"
            self.report(f"{stage}: {count}/{len(waiting)}  {cost.title}  {cost.seconds:.1f} s{rate}  (about {left:.0f} s left)")

    def _finished(self, stage: str, jobs: Sequence[Job]) -> Iterator[Cost]:
        if self.pool is None:
            yield from _in_turn(stage, jobs)
            return
        futures = [self.pool.submit(_measured, stage, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _in_turn(stage: str, jobs: Sequence[Job]) -> Iterator[Cost]:
    """In this process; with others beside it its share, and those that all do together."""
    mine = [job for number, job in enumerate(jobs) if job.together or number % world_size() == rank()]
    with ExitStack() as opened:
        pool = None
        for job in mine:
            if job.trains_alone and world_size() > 1:
                pool = pool or opened.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_alone))
                yield pool.submit(_measured, stage, job).result()
            else:
                yield _measured(stage, job)
    wait_for(job.proof for job in jobs)


def _measured(stage: str, job: Job) -> Cost:
    begin_memory()
    started = time.perf_counter()
    tokens = job.function(**job.arguments)
    if job.together and not is_main():
        wait_for([job.proof])
    if not job.proof.exists():
        raise RuntimeError(f"{job.title} ended without writing {job.proof}")
    return Cost(stage, job.kind, job.title, time.perf_counter() - started, tokens, highest_memory())


def share_of_cores(workers: int) -> int:
    """Threads of each worker."""
    return max(1, (os.cpu_count() or 1) // workers)


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _begin_worker()


_OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "RANK", "ROLE_", "TORCHELASTIC_", "WORLD_SIZE")


def _start_alone() -> None:
    """Forget the other processes of the run, and keep the device."""
    visible, place = os.environ.get("CUDA_VISIBLE_DEVICES"), int(os.environ.get("LOCAL_RANK", "0"))
    if visible != "":  # else there is no device
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place] if visible else str(place)
    for name in [name for name in os.environ if name.startswith(_OF_LAUNCHERS)]:
        del os.environ[name]
    _begin_worker()


def _begin_worker() -> None:
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when its parent is gone, so that a killed run leaves nobody writing into its folder."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def open_workers(workers: int, report: Callable[[str], None], costs: Path) -> Iterator[Workers]:
    """Workers for the length of a run; with one, jobs run in this process, as they do where the run itself has several.

    Args:
        costs: the file that what each job took is written to.
    """
    if workers == 1 or world_size() > 1:
        keep_freed_memory()
        yield Workers(None, report, costs)
        return
    threads = share_of_cores(workers)
    # Libraries below torch read this when they load, which in a spawned process is after this line.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (threads,)) as pool:
        yield Workers(pool, report, costs)
