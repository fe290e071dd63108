"""Whole weights into a model whose parameters may be divided over processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from distillability.ops.sharding import is_sharded

__all__ = ["load_whole"]


@torch.no_grad()
def load_whole(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights, by the names of `model.state_dict()`, of which every process has all; what is not named stays.

    Raises:
        KeyError: the model has no parameter or buffer of a name.
    """
    own = model.state_dict(keep_vars=True)
    targets = {name: own[name] for name in weights}
    if any(hasattr(target, "ds_id") for target in targets.values()):
        from deepspeed import zero

        for name, target in targets.items():  # one at a time: the whole model need not fit
            with zero.GatheredParameters(target, modifier_rank=0):
                target.copy_(weights[name])
    elif is_sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))
    else:
        for name, target in targets.items():
            target.copy_(weights[name])
