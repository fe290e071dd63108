"""Jobs: done once, shared over processes, and nothing kept of a failed one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillability.runs.costs import Cost, append_cost, read_costs, sum_costs
from distillability.runs.jobs import Job, open_workers
from processes import run_in_processes

MEGABYTES_HELD = 400


def _touch(path: Path, text: str) -> int:
    path.write_text(text)
    return 7


def _hold_memory(path: Path) -> None:
    torch.ones(MEGABYTES_HELD << 18)
    path.touch()


def _fail(path: Path) -> None:
    raise ValueError("no luck")


def _nothing(path: Path) -> None:
    pass


def _how_many_processes(path: Path) -> None:
    from accelerate import PartialState

    path.write_text(str(PartialState(cpu=True).num_processes))


def _a_stage_of_two_processes(folder: Path) -> None:
    jobs = [
        Job(name, folder / name, "counting", _how_many_processes, {"path": folder / name}, trains_alone=alone)
        for name, alone in (("beside", False), ("beside too", False), ("alone", True), ("alone too", True))
    ]
    with open_workers(1, lambda _: None, folder / "costs.jsonl") as pool:
        pool.run("stage", jobs)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_runs_once_and_is_skipped_when_its_proof_is_there(tmp_path: Path, workers: int) -> None:
    (tmp_path / "0").write_text("before")
    jobs = [Job(f"job {i}", tmp_path / str(i), "writing", _touch, {"path": tmp_path / str(i), "text": "now"}) for i in range(4)]
    said: list[str] = []
    with open_workers(workers, said.append, tmp_path / "costs.jsonl") as pool:
        pool.run("stage", jobs)
        pool.run("stage", jobs)
    assert [(tmp_path / str(i)).read_text() for i in range(4)] == ["before", "now", "now", "now"]
    assert "stage: 1 of 4 already done" in said and "stage: 4 of 4 already done" in said
    assert sum("3/3" in line for line in said) == 1
    costs = read_costs(tmp_path / "costs.jsonl")
    assert sorted(cost.title for cost in costs) == ["job 1", "job 2", "job 3"]
    assert all((cost.stage, cost.kind, cost.tokens) == ("stage", "writing", 7) and cost.seconds > 0 for cost in costs)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_reaches_the_caller(tmp_path: Path, workers: int) -> None:
    with open_workers(workers, lambda _: None, tmp_path / "costs.jsonl") as pool, pytest.raises(ValueError, match="no luck"):
        pool.run("stage", [Job("bad", tmp_path / "bad", "failing", _fail, {"path": tmp_path})])
    assert read_costs(tmp_path / "costs.jsonl") == []


def test_a_job_without_its_proof_is_an_error(tmp_path: Path) -> None:
    with open_workers(1, lambda _: None, tmp_path / "costs.jsonl") as pool, pytest.raises(RuntimeError, match="without writing"):
        pool.run("stage", [Job("idle", tmp_path / "idle", "idling", _nothing, {"path": tmp_path})])


def test_memory_is_the_jobs_own_highest(tmp_path: Path) -> None:
    jobs = [
        Job("large", tmp_path / "large", "holding", _hold_memory, {"path": tmp_path / "large"}),
        Job("small", tmp_path / "small", "writing", _touch, {"path": tmp_path / "small", "text": "now"}),
    ]
    with open_workers(1, lambda _: None, tmp_path / "costs.jsonl") as pool:
        pool.run("stage", jobs)
    large, small = (cost.memory for cost in read_costs(tmp_path / "costs.jsonl"))
    if large is None or small is None:
        pytest.skip("this system does not say what a process holds")
    assert large > MEGABYTES_HELD << 20
    if Path("/proc/self/clear_refs").exists():
        assert small < large - (MEGABYTES_HELD << 19)


def test_costs_are_summed_by_kind_and_what_is_not_counted_is_not_zero(tmp_path: Path) -> None:
    rows = [
        Cost("distill", "student", "a", 2.0, 10, 5),
        Cost("distill", "traces", "b", 1.0, 3, None),
        Cost("distill", "student", "c", 4.0, None, 9),
        Cost("distill", "traces", "d", 1.0, 4, None),
    ]
    for row in rows:
        append_cost(tmp_path / "costs.jsonl", row)
    assert sum_costs(read_costs(tmp_path / "costs.jsonl")) == [
        {"stage": "distill", "kind": "student", "jobs": 2, "seconds": 6.0, "tokens": None, "memory": 9},
        {"stage": "distill", "kind": "traces", "jobs": 2, "seconds": 2.0, "tokens": 7, "memory": None},
    ]


def test_a_job_that_trains_alone_knows_of_no_other_process(tmp_path: Path) -> None:
    """Its trainer would wait for them, and they for its proof."""
    done = run_in_processes(_a_stage_of_two_processes, tmp_path, processes=2, environment={"ACCELERATE_USE_CPU": "true"}, limit=120)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    found = {name: (tmp_path / name).read_text() for name in ("beside", "beside too", "alone", "alone too")}
    assert found == {"beside": "2", "beside too": "2", "alone": "1", "alone too": "1"}
