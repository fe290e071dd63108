"""Only whole checkpoints are gone back to, and the metrics file holds no line from after the one gone back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillability.files import new_folder, read_jsonl, write_text
from distillability.training.checkpoints import MetricsFile, last_checkpoint

PARTS = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")


def _checkpoint(folder: Path, step: int, parts: tuple[str, ...] = PARTS, state: str = "{}") -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for part in parts:
        (path / part).write_text(state if part == "trainer_state.json" else "x")


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    _checkpoint(tmp_path, 5)
    _checkpoint(tmp_path, 20)
    _checkpoint(tmp_path, 30, PARTS[:-1])
    _checkpoint(tmp_path, 40, state='{"cut off')
    (tmp_path / "checkpoint-tmp").mkdir()
    found = last_checkpoint(tmp_path)
    assert found is not None and found.step == 20


def test_with_several_processes_each_must_have_left_its_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tuple(part for part in PARTS if not part.startswith("rng"))
    _checkpoint(tmp_path, 10, (*parts, "rng_state_0.pth", "rng_state_1.pth"))
    _checkpoint(tmp_path, 20, (*parts, "rng_state_0.pth"))
    _checkpoint(tmp_path, 30)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = last_checkpoint(tmp_path)
    assert found is not None and found.step == 10
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = last_checkpoint(tmp_path)
    assert found is not None and found.step == 30


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in range(1, 6):
        first.append({"step": step})
    with path.open("a") as handle:
        handle.write('{"step": 6, "cut')
    again = MetricsFile(path, keep_to_step=3)
    again.append({"step": 4, "again": True})
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3, 4]
    assert read_jsonl(path)[-1]["again"]


def test_files_and_folders_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    try:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]
