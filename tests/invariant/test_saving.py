"""A save that fails leaves what was whole before, and a calibration that goes on from it ends where it would have ended."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from test_calibration import _calibrate, _weights
from transformers import LlamaForCausalLM, Trainer

from distillability.config.recipe import Lora
from distillability.errors import UserError
from distillability.training.checkpoints import last_checkpoint, on_a_full_disk

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_a_checkpoint(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _calibrate(tiny, tmp_path / "whole", knob=1.0)
    write = Trainer._save_optimizer_and_scheduler

    def fail(self: Trainer, folder: str) -> None:
        if folder.endswith("checkpoint-2"):
            (Path(folder) / "optimizer.pt").write_bytes(b"half")
            raise FULL
        write(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", fail)
    with pytest.raises(UserError) as caught:
        _calibrate(tiny, tmp_path / "full", knob=1.0)
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / "full") and "No space left" in problem.what and "--resume" in problem.fix
    assert not (tmp_path / "full" / "model").exists()
    found = last_checkpoint(tmp_path / "full" / "checkpoints")
    assert found is not None and found.step == 1
    monkeypatch.undo()
    _calibrate(tiny, tmp_path / "full", knob=1.0)
    assert torch.equal(_weights(tmp_path / "full"), _weights(tmp_path / "whole"))


@pytest.mark.parametrize("lora", [None, Lora(r=2), Lora(r=2, save="adapter")])
def test_a_full_disk_at_the_end(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Lora | None) -> None:
    """An older model in its place is left as it was."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")

    def fail(self: Any, folder: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-" in str(folder):
            return write(self, folder, *args, **kwargs)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise FULL

    from peft import PeftModel

    owner = PeftModel if lora is not None and lora.save == "adapter" else LlamaForCausalLM
    write = owner.save_pretrained
    monkeypatch.setattr(owner, "save_pretrained", fail)
    with pytest.raises(UserError, match="No space left"):
        _calibrate(tiny, tmp_path, knob=1.0, lora=lora)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    assert not list(tmp_path.glob(".model*"))
    found = last_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.step == 3
    monkeypatch.undo()
    outcome = _calibrate(tiny, tmp_path, knob=1.0, lora=lora)
    assert outcome["kept_step"] == 3 and not (tmp_path / "model" / "old").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_writers_that_find_no_room(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError, match="cannot be written"), on_a_full_disk(tmp_path):
        raise error


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), on_a_full_disk(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "No such file")
