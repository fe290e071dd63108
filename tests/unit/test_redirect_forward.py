"""Work that stands in for a forward pass, and models in parts."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distillability.ops.sharding import is_sharded, redirect_forward


class _Wrapper(torch.nn.Module):
    """What a wrapper for several processes is to us: something happens around the forward pass of the model inside."""

    def __init__(self, inside: torch.nn.Module):
        super().__init__()
        self.inside, self.calls = inside, 0

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        found: torch.Tensor = self.inside(*args)
        return found


@pytest.mark.parametrize("patched", [False, True])
def test_the_wrapper_sees_one_forward_pass_and_the_model_is_itself_again(patched: bool) -> None:
    model = torch.nn.Linear(2, 2)
    if patched:  # as accelerators do, for autocast
        model.forward = lambda x: torch.nn.Linear.forward(model, x)  # type: ignore[method-assign]
    before = vars(model).get("forward")
    wrapper, x = _Wrapper(model), torch.ones(1, 2)
    assert torch.equal(redirect_forward(wrapper, model, lambda: 2 * model(x)), 2 * model(x))
    assert wrapper.calls == 1
    assert vars(model).get("forward") is before
    assert torch.equal(redirect_forward(model, model, lambda: 3 * model(x)), 3 * model(x))


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError):
        redirect_forward(_Wrapper(model), model, lambda: torch.tensor(1 / 0))
    assert "forward" not in vars(model)
    assert model(torch.ones(1, 2)).shape == (1, 2)


def test_what_counts_as_sharded() -> None:
    assert not is_sharded(torch.nn.Linear(2, 3))
    assert not is_sharded(get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 3)), LoraConfig(r=2, target_modules=["0"])))
    partitioned = torch.nn.Linear(2, 3)
    partitioned.weight.ds_id = 7  # type: ignore[assignment]
    assert is_sharded(torch.nn.Sequential(torch.nn.Linear(2, 2), partitioned))
