"""Which devices one process trains on."""

from __future__ import annotations

from typing import TypeVar

from transformers import TrainingArguments

__all__ = ["on_one_device"]

_Arguments = TypeVar("_Arguments", bound=TrainingArguments)


def on_one_device(arguments: _Arguments) -> _Arguments:
    """The arguments, made to use the first of several devices that a single process sees.

    transformers would copy the model to all and take a batch for each; several devices are for several processes (`accelerate launch`).
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments
