"""A student whose parameters are sharded over two processes has the loss and the gradient of one that is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_reduction as whole_model
import torch

from distillability.objectives import OBJECTIVES
from distillability.ops.align import next_token_positions
from distillability.ops.projection import projected_sum
from distillability.ops.reduce import global_mean
from distillability.ops.sharding import redirect_forward
from processes import run_in_processes


def sharded_step(models: whole_model.Models, *, head_apart: bool) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one step over uneven shares of the examples; called in each of two processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank = torch.distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    student = models.student
    for module in (*student.model.layers, *([student.lm_head] if head_apart else []), student):
        fully_shard(module, mesh=mesh)
    batch = whole_model._collate((models.examples[:3], models.examples[3:])[rank])
    rows, columns, targets = next_token_positions(batch.labels)
    with torch.no_grad():
        of_teacher = whole_model._logits(models.teacher, batch)[rows, columns]

    def loss(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return OBJECTIVES["jsd"](student_logits=logits, teacher_logits=of_teacher[part], target_ids=targets[part])

    def work() -> torch.Tensor:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
        states = student.model(**inputs).last_hidden_state[rows, columns]
        return projected_sum(states, student.lm_head, loss, chunk=5)

    mean = global_mean(redirect_forward(student, student, work), whole_model.N_TOKENS, world_size=2)
    mean.backward()  # type: ignore[no-untyped-call]
    total = mean.detach().clone()
    torch.distributed.all_reduce(total)
    gradient = torch.cat([parameter.grad.full_tensor().flatten() for parameter in student.parameters()])
    return total.item() / 2, gradient


def worker(tiny: dict[str, Path], head_apart: bool) -> None:
    """What one of the two processes does."""
    torch.distributed.init_process_group("gloo")
    expected = whole_model._accumulated(whole_model.load(tiny), "jsd", [8])
    whole_model._same(sharded_step(whole_model.load(tiny), head_apart=head_apart), expected)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("head_apart", [False, True])
def test_two_processes_that_share_the_parameters_are_one(tiny: dict[str, Path], tmp_path: Path, head_apart: bool) -> None:
    done = run_in_processes(worker, tiny, head_apart, processes=2)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-4000:] + done[1].stderr[-4000:]
