"""Work on parts of a model inside the forward pass of whatever wraps it."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["through_wrapper"]


def through_wrapper(wrapper: torch.nn.Module, model: torch.nn.Module, work: Callable[[], torch.Tensor]) -> torch.Tensor:
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
