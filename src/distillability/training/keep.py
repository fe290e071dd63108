"""Which weights a calibration ends with, and saving them whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from trl import GRPOTrainer

from distillability.files import new_folder
from distillability.models.load import LoadedModel, load_model
from distillability.training.resume import whole_checkpoints

__all__ = ["go_back", "save"]


def go_back(trainer: GRPOTrainer, loaded: LoadedModel, folder: Path, *, may_keep: Callable[[int], bool]) -> int:
    """Load the last checkpoint in `folder` whose step may be kept, the original teacher where there is none; returns its step."""
    kept = [checkpoint for checkpoint in whole_checkpoints(folder) if may_keep(checkpoint.step)]
    source = kept[-1].path if kept else trainer.model.config._name_or_path
    weights = load_model(source, trust_remote_code=loaded.trust_remote_code).model.state_dict()
    trainer.accelerator.unwrap_model(trainer.model).load_state_dict(weights)
    return kept[-1].step if kept else 0


def save(trainer: GRPOTrainer, path: Path) -> None:
    """The policy as an ordinary folder, whole or not at all; one process writes."""
    with new_folder(path) if trainer.accelerator.is_main_process else nullcontext(path) as folder:
        trainer.save_model(str(folder))
