"""Projection and loss in chunks: the plain value, the plain gradient of everything trainable, and never all logits at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from distillability.objectives import OBJECTIVES
from distillability.ops import projection
from distillability.ops.logprobs import token_logprobs
from distillability.ops.projection import projected, projected_sum, projector

N, D, V = 13, 6, 29
GENERATOR = torch.Generator().manual_seed(0)
TEACHER_LOGITS = 2 * torch.randn(N, V, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randint(V, (N,), generator=GENERATOR)
WEIGHTS = torch.randn(N, generator=GENERATOR, dtype=torch.float64)
CHUNKS = [1, 4, 13, None]


class _Scaled(nn.Module):
    """A head of several parameters, one frozen and one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, V).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.tanh(self.linear(hidden))


def _adapted() -> nn.Module:
    """A linear layer under a low-rank adapter, its own weight frozen, with something in both halves of the adapter."""
    model = get_peft_model(nn.Sequential(nn.Linear(D, V)), LoraConfig(r=2, target_modules=["0"]))
    head: nn.Module = model.base_model.model[0]
    for name, parameter in head.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter)
    return head


HEADS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(D, V, bias=False),
    "bias": lambda: nn.Linear(D, V),
    "frozen": lambda: nn.Linear(D, V).requires_grad_(False),
    "frozen weight": lambda: _frozen_weight(),
    "adapter": _adapted,
    "scaled": _Scaled,
}


def _frozen_weight() -> nn.Linear:
    head = nn.Linear(D, V)
    head.weight.requires_grad_(False)
    return head


def _case(head: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, nn.Module]:
    torch.manual_seed(1)
    return torch.randn(N, D, dtype=torch.float64).to(dtype).requires_grad_(), HEADS[head]().to(dtype)


def _objective(name: str) -> projection.ChunkLoss:
    def loss(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        teacher = TEACHER_LOGITS[rows].to(logits.dtype) if OBJECTIVES[name].needs_teacher_logits else None
        return OBJECTIVES[name](student_logits=logits, teacher_logits=teacher, target_ids=TARGETS[rows])

    return loss


def _found(hidden: torch.Tensor, head: nn.Module, total: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The value, and the gradients of the hidden states and of every trainable parameter."""
    wanted = [hidden, *(parameter for parameter in head.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad(0.3 * total, wanted, allow_unused=True)
    return total, [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(wanted, gradients, strict=True)]


def _assert_same(ours: tuple[torch.Tensor, list[torch.Tensor]], plain: tuple[torch.Tensor, list[torch.Tensor]], **tolerance: float) -> None:
    assert torch.allclose(ours[0], plain[0], **tolerance)
    for mine, theirs in zip(ours[1], plain[1], strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.allclose(mine, theirs, **tolerance)
    norms = [torch.cat([x.flatten() for x in gradients]).norm() for _, gradients in (ours, plain)]
    assert torch.allclose(norms[0], norms[1], **tolerance)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("head", sorted(HEADS))
def test_chunks_are_the_plain_loss_with_the_plain_gradient(name: str, head: str) -> None:
    hidden, module = _case(head)
    plain = _found(hidden, module, _objective(name)(module(hidden), slice(0, N)))
    for chunk in CHUNKS:
        _assert_same(_found(hidden, module, projected_sum(hidden, module, _objective(name), chunk=chunk)), plain, rtol=1e-9, atol=1e-12)


def test_a_frozen_parameter_costs_nothing() -> None:
    hidden, head = _case("frozen weight")
    total = projected_sum(hidden, head, _objective("seqkd"), chunk=4)
    shapes = [None if gradient is None else tuple(gradient.shape) for gradient in total.grad_fn.gradients]  # type: ignore[union-attr, attr-defined]
    assert shapes == [(N, D), None, (V,)]
    total.backward()  # type: ignore[no-untyped-call]
    assert head.weight.grad is None


def test_logits_are_projected_once_and_never_all_at_once() -> None:
    hidden, head = _case("adapter")
    seen: list[int] = []
    head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    projected_sum(hidden, head, _objective("forward_kl"), chunk=4).backward()  # type: ignore[no-untyped-call]
    assert sum(seen) == N and max(seen) <= 4


def test_logits_come_chunk_by_chunk_without_gradient() -> None:
    hidden, head = _case("bias")
    found = list(projected(hidden, head, chunk=4))
    assert [len(logits) for _, logits in found] == [part.stop - part.start for part, _ in found]
    assert max(len(logits) for _, logits in found) == 4
    torch.testing.assert_close(torch.cat([logits for _, logits in found]), head(hidden))
    assert not any(logits.requires_grad for _, logits in found)


def test_a_changed_forward_pass_is_respected() -> None:
    hidden, head = _case("bias")
    head.register_forward_hook(lambda module, args, output: 2 * output)
    plain = _found(hidden, head, _objective("seqkd")(head(hidden), slice(0, N)))
    _assert_same(_found(hidden, head, projected_sum(hidden, head, _objective("seqkd"), chunk=4)), plain)
    assert torch.equal(projector(head)(hidden), head(hidden))


def test_a_tied_head_gathers_both_of_its_gradients() -> None:
    torch.manual_seed(2)
    embedding = nn.Embedding(V, D, dtype=torch.float64)
    head = nn.Linear(D, V, bias=False, dtype=torch.float64)
    head.weight = embedding.weight

    def gradient(chunk: int | None, plain: bool) -> torch.Tensor:
        hidden = embedding(TARGETS.flip(0)).tanh()
        total = _objective("jsd")(head(hidden), slice(0, N)) if plain else projected_sum(hidden, head, _objective("jsd"), chunk=chunk)
        (found,) = torch.autograd.grad(total, embedding.weight)
        return found

    for chunk in CHUNKS:
        assert torch.allclose(gradient(chunk, False), gradient(None, True), rtol=1e-10)


def test_accumulated_micro_batches_add_up() -> None:
    hidden, head = _case("bias")
    projected_sum(hidden, head, _objective("reverse_kl"), chunk=4).backward()  # type: ignore[no-untyped-call]
    whole = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
    head.zero_grad()
    for part in (slice(0, 5), slice(5, 6), slice(6, N)):
        shifted = lambda logits, rows, start=part.start: _objective("reverse_kl")(logits, slice(start + rows.start, start + rows.stop))  # noqa: E731
        projected_sum(hidden[part], head, shifted, chunk=3).backward()
    for parameter, expected in zip(head.parameters(), whole, strict=True):
        assert parameter.grad is not None and torch.allclose(parameter.grad, expected)


@pytest.mark.parametrize("head", ["bias", "adapter"])
@pytest.mark.parametrize("sharded", [False, True])
def test_no_position_is_a_zero_that_every_parameter_has_a_gradient_of(head: str, sharded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "is_sharded", lambda head: sharded)
    hidden, module = _case(head)
    total = projected_sum(hidden[:0], module, _objective("forward_kl"))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_sharded_head_is_projected_again_with_the_same_result(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, module = _case(head)
    ours = _found(hidden, module, projected_sum(hidden, module, _objective("jsd"), chunk=4))
    monkeypatch.setattr(projection, "is_sharded", lambda head: True)
    _assert_same(ours, _found(hidden, module, projected_sum(hidden, module, _objective("jsd"), chunk=4)))


def test_identity_takes_logits() -> None:
    logits = torch.randn(N, V, dtype=torch.float64, requires_grad=True)
    plain = _found(logits, nn.Identity(), _objective("reverse_kl")(logits, slice(0, N)))
    _assert_same(_found(logits, nn.Identity(), projected_sum(logits, nn.Identity(), _objective("reverse_kl"), chunk=4)), plain)


def test_a_loss_of_the_chosen_token_hands_back_its_values() -> None:
    """As a policy gradient uses it: any function of log π(token), and the log-probabilities themselves for whoever logs them."""
    hidden, head = _case("plain")
    kept = torch.full((N,), math.nan, dtype=torch.float64)
    old = token_logprobs(head(hidden), TARGETS).detach() - 0.1 * WEIGHTS

    def loss(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        logprobs = token_logprobs(logits, TARGETS[rows])
        kept[rows] = logprobs.detach()
        ratio = (logprobs - old[rows]).exp()
        return -torch.minimum(ratio * WEIGHTS[rows], ratio.clamp(0.95, 1.05) * WEIGHTS[rows]).sum()

    plain = _found(hidden, head, loss(head(hidden), slice(0, N)))
    expected, kept[:] = kept.clone(), math.nan
    _assert_same(_found(hidden, head, projected_sum(hidden, head, loss, chunk=4)), plain, rtol=1e-9, atol=1e-12)
    assert torch.allclose(kept, expected)


@pytest.mark.parametrize("head", ["bias", "frozen", "adapter"])
def test_autocast_projects_in_half_precision_and_computes_the_loss_in_full(head: str) -> None:
    hidden, module = _case(head, torch.float32)
    seen: set[torch.dtype] = set()

    def loss(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        seen.add(logits.dtype)
        total = _objective("forward_kl")(logits, rows)
        assert total.dtype == torch.float32
        return total

    with torch.autocast("cpu", torch.bfloat16):
        plain = _found(hidden, module, loss(module(hidden), slice(0, N)))
        ours = _found(hidden, module, projected_sum(hidden, module, loss, chunk=4))
        assert projector(module)(hidden).dtype == torch.bfloat16
    assert seen == {torch.bfloat16}
    _assert_same(ours, plain, rtol=2e-2, atol=2e-2)


def test_half_precision_weights_add_up_in_full_precision() -> None:
    hidden, head = _case("plain", torch.bfloat16)
    exact_head = copy.deepcopy(head).double()
    exact = hidden.detach().double().requires_grad_()
    plain = _found(exact, exact_head, _objective("seqkd")(exact_head(exact), slice(0, N)))
    value, gradients = _found(hidden, head, projected_sum(hidden, head, _objective("seqkd"), chunk=1))
    assert value.dtype == torch.float32
    assert gradients[1].dtype == torch.bfloat16
    assert torch.allclose(gradients[1].double(), plain[1][1], rtol=2e-2, atol=2e-2)


def test_without_gradient_nothing_is_kept() -> None:
    hidden, head = _case("bias")
    with torch.no_grad():
        total = projected_sum(hidden, head, _objective("jsd"), chunk=4)
    assert not total.requires_grad
    assert torch.allclose(total, _objective("jsd")(head(hidden), slice(0, N)))


def test_a_second_backward_pass_is_an_error_and_not_a_wrong_gradient() -> None:
    hidden, head = _case("bias")
    total: Any = projected_sum(hidden, head, _objective("jsd"))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


def test_chunks_shrink_as_the_vocabulary_grows() -> None:
    hidden = torch.zeros(1, 2)
    heads = {vocabulary: nn.Linear(2, vocabulary, device="meta") for vocabulary in (32_000, 262_144)}
    small, large = (projection.affordable(hidden, head) * vocabulary for vocabulary, head in heads.items())
    assert large == pytest.approx(small, rel=0.02)
    assert projection.affordable(hidden, nn.Linear(2, 10**9, device="meta")) == 1
    assert [(part.start, part.stop) for part in projection._chunks(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert projection._chunks(0, 4) == []
