"""Jobs: done once, shared over processes, and nothing kept of a failed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillability.stages.jobs import Job, open_workers


def _touch(path: Path, text: str) -> None:
    path.write_text(text)


def _fail(path: Path) -> None:
    raise ValueError("no luck")


def _nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_runs_once_and_is_skipped_when_its_proof_is_there(tmp_path: Path, workers: int) -> None:
    (tmp_path / "0").write_text("before")
    jobs = [Job(f"job {i}", tmp_path / str(i), _touch, {"path": tmp_path / str(i), "text": "now"}) for i in range(4)]
    said: list[str] = []
    with open_workers(workers, said.append) as pool:
        pool.run("stage", jobs)
        pool.run("stage", jobs)
    assert [(tmp_path / str(i)).read_text() for i in range(4)] == ["before", "now", "now", "now"]
    assert "stage: 1 of 4 already done" in said and "stage: 4 of 4 already done" in said
    assert sum("3/3" in line for line in said) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_reaches_the_caller(tmp_path: Path, workers: int) -> None:
    with open_workers(workers, lambda _: None) as pool, pytest.raises(ValueError, match="no luck"):
        pool.run("stage", [Job("bad", tmp_path / "bad", _fail, {"path": tmp_path})])


def test_a_job_without_its_proof_is_an_error(tmp_path: Path) -> None:
    with open_workers(1, lambda _: None) as pool, pytest.raises(RuntimeError, match="without writing"):
        pool.run("stage", [Job("idle", tmp_path / "idle", _nothing, {"path": tmp_path})])
