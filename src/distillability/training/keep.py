"""Which weights a calibration ends with, and saving them whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from trl import GRPOTrainer

from distillability.errors import UserError
from distillability.files import new_folder
from distillability.models.load import LoadedModel, load_model
from distillability.training.divided import load_whole
from distillability.training.lora import adapter_of, save_merged
from distillability.training.resume import whole_checkpoints

__all__ = ["go_back", "on_a_full_disk", "save"]


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
        mend = "free some space, then go on with --resume: it continues from the last whole checkpoint"
        raise UserError.single(str(folder), f"cannot be written: {error}", mend) from error


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
