"""Which dtype is faster here: measured, because processors differ more than their flags tell."""

from __future__ import annotations

import time

import torch

from distillability.models.load import LoadedModel

__all__ = ["faster_autocast"]

_LENGTH, _SECONDS, _ROUNDS = 48, 0.1, 3  # of a text; of one measurement; how often both are measured at most
_LARGE = 20_000_000  # weights; above it a few rows keep a processor busy, and many take minutes
_HOPELESS = 3.0  # times slower with few rows: without units for bfloat16 all rows would take seconds to say the same


@torch.inference_mode()
def faster_autocast(loaded: LoadedModel) -> str:
    """`float32` or `bfloat16`, whichever forwards this model faster here; about half a second, a few for a model of 100 M weights.

    The two take turns and the best round of each counts; on a processor only the time that this process had of it does, so that other
    processes do not decide. bfloat16 must win by a tenth, since it also costs precision.
    """
    rows = 64 if loaded.model.num_parameters() < _LARGE else 8
    began = time.perf_counter()
    ids = torch.randint(0, loaded.model.config.get_text_config().vocab_size, (rows, _LENGTH), device=loaded.device)
    few = ids[: rows // 8]
    if _rate(loaded, few, None, 0.0) > _HOPELESS * _rate(loaded, few, torch.bfloat16, 0.0):
        return "float32"
    rates = []
    for _ in range(_ROUNDS):
        rates.append((_rate(loaded, ids, None, _SECONDS), _rate(loaded, ids, torch.bfloat16, _SECONDS)))
        if time.perf_counter() - began > 20 * _SECONDS:  # long enough that a moment's load has passed
            break
    plain, half = (max(of_dtype) for of_dtype in zip(*rates, strict=True))
    return "bfloat16" if half > 1.1 * plain else "float32"


def _rate(loaded: LoadedModel, ids: torch.Tensor, dtype: torch.dtype | None, seconds: float) -> float:
    """Forwards a second, of one at least; of this process's own time where it runs on a processor."""
    clock = time.process_time if loaded.device.type == "cpu" else time.perf_counter
    with torch.autocast(loaded.device.type, dtype, enabled=dtype is not None):
        loaded.model(input_ids=ids)
        started, count = clock(), 0
        while count == 0 or clock() - started < seconds:
            loaded.model(input_ids=ids).logits[0, 0, 0].item()
            count += 1
    return count / (clock() - started)
