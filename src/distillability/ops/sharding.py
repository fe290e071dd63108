"""Models in several processes: work inside a wrapper's forward pass, and parameters that are divided over processes (FSDP, ZeRO-3).

Divided parameters are gathered by hooks of the forward pass, layer after layer, and gathering is an exchange that every process must take
part in: whoever reads them outside a forward pass finds a part, and whoever makes one pass fewer than the others leaves them waiting.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch

__all__ = ["gathered", "is_sharded", "load_whole", "most_anywhere", "redirect_forward"]


def is_sharded(module: torch.nn.Module) -> bool:
    """Whether parameters are held in parts (DTensor, ZeRO-3), or will be again when a pass has ended (FSDP)."""
    if any(hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id") for parameter in module.parameters()):
        return True
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import, and where nobody has, nothing is wrapped
    return fsdp is not None and any(isinstance(part, fsdp.FSDPModule) for part in module.modules())


def most_anywhere(n: int, device: torch.device) -> int:
    """The largest n of all processes, each of which has to ask."""
    if not torch.distributed.is_initialized():
        return n
    most = torch.tensor(n, device=device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return int(most)


def gathered(model: torch.nn.Module, work: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`work()`, which reads parts of `model` or all of it, where its layers are gathered as they are reached."""
    return redirect_forward(model, model, work) if is_sharded(model) else work()


def redirect_forward(wrapper: torch.nn.Module, model: torch.nn.Module, work: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`work()`, run as the forward pass of `wrapper`, which has `model` inside or is `model` itself.

    A wrapper for several processes gathers parameters before its forward pass and readies the exchange of gradients after it; whoever calls
    the backbone and the head of the model inside by themselves would miss both. So for one call `work` stands in for the model's forward
    pass, and inside of it the model is itself again. What else an accelerator put around that forward pass, autocast above all, is left
    out: `work` has to see to it.
    """
    missing = object()
    own = vars(model).get("forward", missing)

    def restore() -> None:
        vars(model).pop("forward", None)
        if own is not missing:
            vars(model)["forward"] = own

    def forward() -> torch.Tensor:
        restore()
        return work()

    vars(model)["forward"] = forward
    try:
        result: torch.Tensor = wrapper()
    finally:
        restore()
    return result


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
