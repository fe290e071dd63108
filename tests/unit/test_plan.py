"""A plan against counts by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import ROOT, run
from distillability.budgets import DECODED_AT_ONCE, chunk_bytes
from distillability.config.load import load_recipe
from distillability.config.recipe import Recipe
from distillability.errors import UserError
from distillability.files import write_jsonl
from distillability.models.facts import read_facts
from distillability.models.lengths import prompt_tokens
from distillability.models.shape import ModelShape, model_shape
from distillability.ops.projection import affordable
from distillability.planning.hardware import Hardware, named_hardware, this_machine
from distillability.planning.memory import Memory, logits_chunk, training_activations
from distillability.planning.plan import Assumptions, Plan, plan_recipe
from distillability.planning.stage_work import Line, elapsed
from distillability.planning.work import Work, backward, decode, forward, optimiser_step, project
from paper_models import MODELS, hub_config

# One layer, 4 wide, one head of 4, 8 inside, 10 tokens: 4 · 16 weights of attention, 3 · 32 of the gated layers.
SMALL = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
MATRICES, HEAD = 4 * 16 + 3 * 32, 40
SLOW = Hardware("slow", 1, {"float32": 1e3, "bfloat16": 2e3}, {"float32": 500.0, "bfloat16": 800.0}, 100.0, 1e6, 0.5, 0.5, 3.0)


def _shape(**changes: Any) -> ModelShape:
    return model_shape("small", SMALL | changes)


def _lab(hardware: Hardware = SLOW, overrides: tuple[str, ...] = (), **assumptions: Any) -> Plan:
    recipe = load_recipe(ROOT / "recipes" / "lab.toml", ['only=["maths"]', *overrides])
    return plan_recipe(recipe, hardware, Assumptions(**assumptions))


def test_weights_of_a_small_model_by_hand() -> None:
    assert _shape().layer_matrices == MATRICES
    assert _shape().n_weights == 2 * HEAD + MATRICES + 2 * 4 + 4
    assert _shape(tie_word_embeddings=True).n_weights == HEAD + MATRICES + 2 * 4 + 4
    assert _shape(attention_bias=True, mlp_bias=True).n_weights == _shape().n_weights + 4 * 4 + 2 * 8 + 4
    assert _shape().adapter_weights(2) == 2 * (4 * 8 + 3 * 12)
    assert _shape().adapter_weights(2, ["q_proj", "down_proj"]) == 2 * (8 + 12)
    assert _shape(num_hidden_layers=3).cache(5) == 2 * 3 * 4 * 5


@pytest.mark.parametrize("reference", ["lab:maths/teacher", "lab:maths/proxy", "lab:maths/student"])
def test_weights_of_the_lab_are_those_in_its_files(reference: str) -> None:
    facts = read_facts(reference)
    header = next(facts.folder.glob("*.safetensors")).read_bytes()
    tensors = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    held = [tensor["shape"] for name, tensor in tensors.items() if name != "__metadata__"]
    assert model_shape(reference, facts.config).n_weights == sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in held)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(UserError, match="gpt2"):
        model_shape("x", {"model_type": "gpt2"})
    with pytest.raises(UserError, match="hidden_size"):
        model_shape("x", {key: value for key, value in SMALL.items() if key != "hidden_size"})


def test_operations_of_a_pass_by_hand() -> None:
    work = forward(_shape(), rows=2, length=5, positions=3, hardware=SLOW, dtype="float32")
    assert work.tokens == 10
    assert work.flops == 2 * 10 * MATRICES + 2 * 3 * HEAD + 4 * 4 * 10 * 5
    assert backward(work).flops == 2 * work.flops
    assert backward(work, whole=False).flops == work.flops
    assert (work + work).flops == (work * 2).flops == 2 * work.flops


def test_logits_are_a_part_of_a_pass() -> None:
    common: dict[str, Any] = {"rows": 2, "length": 5, "hardware": SLOW, "dtype": "bfloat16"}
    whole, body = forward(_shape(), positions=7, **common), forward(_shape(), positions=0, **common)
    logits, none = (project(_shape(), positions=positions, dtype="bfloat16") for positions in (7, 0))
    assert logits.flops == whole.flops - body.flops == 2 * 7 * HEAD
    assert logits.moved - none.moved == whole.moved - body.moved
    assert none.moved == HEAD * (4 + 2 + 2)  # read in float32, written and read in half precision


def test_decoding_reads_each_prompt_once() -> None:
    common: dict[str, Any] = {"prompt": 6.0, "new": 4.0, "hardware": SLOW, "dtype": "float32", "batch": 8.0}
    one = decode(_shape(), prompts=1, rows=1, **common)
    assert one.flops == 2 * 6 * MATRICES + 2 * HEAD + 4 * 4 * 6 * 6
    assert one.narrow == 4 * (2 * (MATRICES + HEAD) + 4 * 4 * 8)
    assert one.operations == one.flops + one.narrow
    group = decode(_shape(), prompts=1, rows=8, **common)
    assert group.tokens == 6 + 8 * 4
    apart = decode(_shape(), prompts=8, rows=8, **common)
    assert apart.tokens == 8 * (6 + 4)
    assert decode(_shape(), prompts=16, rows=16, **common).calls == pytest.approx(2 * apart.calls)


def test_time_is_products_then_bytes_then_calls() -> None:
    assert Work(flops=1000, moved=50, calls=4).seconds(SLOW, "float32") == pytest.approx((1 + 0.5) / 0.5 + 2)
    assert Work(flops=1000).seconds(SLOW, "bfloat16") == pytest.approx(1)
    assert Work(narrow=1000).seconds(SLOW, "bfloat16") == pytest.approx(2.5)


def test_memory_is_what_stays_and_the_largest_phase() -> None:
    assert Memory({"a": 1, "b": 2}, {"x": {"c": 10, "d": 1}, "y": {"c": 4}}).peak == 14
    assert Memory({"a": 1, "b": 2}, {"x": {"c": 10, "d": 1}, "y": {"c": 4}}, kept=True).peak == 18
    assert Memory({"a": 1}).peak == 1


def test_checkpointing_keeps_a_layer_and_the_inputs_of_all() -> None:
    common: dict[str, Any] = {"rows": 2, "length": 3, "dtype": "float32", "fused_attention": True}
    one = training_activations(_shape(), **common, checkpointing=False)
    assert training_activations(_shape(num_hidden_layers=5), **common, checkpointing=False) == 5 * one
    assert training_activations(_shape(num_hidden_layers=5), **common, checkpointing=True) == one + 5 * 6 * 4 * 4


def test_optimiser_moves_bytes_for_what_it_trains() -> None:
    shape = _shape()
    assert optimiser_step(shape, 2000).moved == 2 * optimiser_step(shape, 1000).moved


def test_prompts_are_counted_as_the_model_renders_them(tmp_path: Path) -> None:
    teacher = read_facts("lab:maths/teacher")
    tokens, counted = prompt_tokens(teacher.folder, teacher.chat_template, ["1+2", "1+2+3+4"])
    assert (tokens, counted) == ((5 + 9) / 2, True)  # a token a character, <user> and <assistant>
    assert prompt_tokens(tmp_path, None, ["12345678"]) == (8 / 4 + 16, False)


def test_parts_of_the_lab_by_hand() -> None:
    plan = _lab(prompt_length=20, completion_length=30)
    lines = {(line.stage, line.part): line for line in plan.lines}
    assert lines["calibrate", "reference"].total(1).tokens == 2 * 45 * 32 * 8 * 50
    assert lines["calibrate", "rollouts"].total(1).tokens == 2 * 45 * 32 * (20 + 8 * 30)
    assert lines["calibrate", "update"].total(1).tokens == 2 * 45 * 32 * 8 * 50
    assert lines["students", "1500 steps, from traces"].total(1).tokens == 9 * 1500 * 48 * 50
    assert lines["traces", "plain"].total(1).tokens == 4000 * (50 + 50)  # bought, then read once for what the teacher says
    assert lines["traces", "undistillable_prefilled"].total(1).tokens == 4000 * 50
    assert lines["evaluate", "students"].jobs == 10
    assert plan.seconds == pytest.approx(sum(line.jobs * line.job_seconds(SLOW) for line in plan.lines))  # one device
    assert plan.usd == pytest.approx(plan.seconds / 3600 * 3.0)
    held = plan.memory["maths"]["calibrate"]
    assert held.stays["policy"] == held.stays["reference"] == 4 * 856_192
    assert held.stays["optimiser state"] == 8 * 856_192


def test_rollouts_hold_no_more_completions_than_are_decoded_at_once() -> None:
    def rollouts(prompts: int) -> dict[str, float]:
        plan = _lab(overrides=(f"calibrate.prompts_per_step={prompts}",), prompt_length=20, completion_length=30)
        return plan.memory["maths"]["calibrate"].phases["rollouts"]

    few, some, many = rollouts(50), rollouts(100), rollouts(1000)  # groups of eight: 400, 800 and 8,000 completions
    assert few["keys and values"] * DECODED_AT_ONCE / 400 == pytest.approx(some["keys and values"])
    assert many == some


def test_a_chunk_of_logits_is_as_large_in_a_plan_as_in_the_loss() -> None:
    head = torch.nn.Linear(4, 1 << 10)
    in_the_loss = affordable(torch.empty(1, 4), head) * head.out_features * 4
    assert logits_chunk(_shape(), accelerator=False) == 4 * in_the_loss == 4 * chunk_bytes(accelerator=False)


def test_gold_texts_are_drawn_from_nobody() -> None:
    plan = _lab(overrides=('distill.arms=[{sources=["gold_steps","plain"]}]',), prompt_length=20, completion_length=30)
    assert [line.part for line in plan.lines if line.stage == "traces"] == ["plain"]
    assert next(line for line in plan.lines if line.stage == "students").jobs == 2


def test_equal_completions_cost_once() -> None:
    def tokens(distinct: float) -> float:
        plan = _lab(prompt_length=20, completion_length=30, distinct=distinct)
        return next(line for line in plan.lines if line.part == "update").total(1).tokens

    assert tokens(0.5) == tokens(1.0) / 2
    assert tokens(0.01) == tokens(1.0) / 8


def test_an_adapter_needs_no_reference_and_little_state() -> None:
    whole, adapter = _lab(), _lab(overrides=("calibrate.lora.r=8",))
    held = adapter.memory["maths"]["calibrate"].stays
    assert "reference" not in held
    assert held["optimiser state"] < whole.memory["maths"]["calibrate"].stays["optimiser state"] / 5
    teacher = next(model for model in adapter.models if model.role == "teacher")
    assert 0 < teacher.trained < teacher.weights


def test_jobs_are_dealt_out_longest_first() -> None:
    def line(flops: float, jobs: int, *, together: bool = False, stage: Any = "students") -> Line:
        return Line("t", stage, "x", Work(flops=flops * SLOW.utilisation * 1e3), jobs, "float32", together)

    two = replace(SLOW, devices=2)
    assert elapsed([line(3, 3)], two) == {("t", "students"): 6}
    assert elapsed([line(3, 1), line(1, 2)], two) == {("t", "students"): 3}
    assert elapsed([line(3, 1, stage="calibrate"), line(1, 2, stage="calibrate")], two) == {("t", "calibrate"): 4}
    assert elapsed([line(3, 3, together=True)], two) == {("t", "students"): 9}


def test_devices_share_jobs_and_divide_what_is_sharded() -> None:
    one, eight = named_hardware("h100"), named_hardware("h100x8")
    assert eight.devices == 8
    alone, together = _lab(one), _lab(eight)
    assert together.seconds < alone.seconds
    assert together.device_hours > alone.device_hours
    sharded = _lab(eight, sharded=True)
    held = sharded.memory["maths"]["calibrate"].stays["policy"]
    assert held == pytest.approx(together.memory["maths"]["calibrate"].stays["policy"] / 8)


@pytest.mark.parametrize("name", ["h100x0", "h100x", "abacus", "", "x8"])
def test_unknown_hardware_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no hardware of this name"):
        named_hardware(name)


def test_this_machine_is_measured() -> None:
    found = this_machine(workers=2)
    assert found.devices == 2
    assert 1e8 < found.flops["float32"] < 1e15
    assert 1e7 < found.narrow["bfloat16"] < 1e15
    assert 1e8 < found.bandwidth < 1e13
    assert 1e-8 < found.call_seconds < 1e-2
    assert not found.is_accelerator


@pytest.fixture
def paper_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the recipes' models are folders with nothing but a configuration."""
    for name in MODELS:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(hub_config(name)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["gemma", "qwen"])
def test_a_paper_recipe_is_planned_from_configurations_alone(paper_run: Path, name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / "paper" / f"{name}.toml")
    with pytest.raises(UserError, match="Big-Math"):
        plan_recipe(recipe, named_hardware("h100x7"), Assumptions())
    plan = plan_recipe(recipe, named_hardware("h100x7"), Assumptions(prompt_length=200, completion_length=500, sharded=True))
    for stage, memory in plan.memory["bigmath"].items():
        assert memory.peak < 80e9, stage
    assert 10 < plan.device_hours < 2000


def test_the_recipe_for_one_accelerator_fits_it(paper_run: Path) -> None:
    write_jsonl(paper_run / "questions.jsonl", ({"prompt": f"What is {number}?", "answer": str(number)} for number in range(2000)))
    recipe = load_recipe(ROOT / "recipes" / "one-gpu.toml")
    plan = plan_recipe(recipe, named_hardware("h100"), Assumptions(prompt_length=100, completion_length=400))
    assert {stage for stage, memory in plan.memory["questions"].items() if memory.peak > 80e9} == set()
    assert plan.seconds < 12 * 3600


def test_a_model_that_is_not_here_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(ROOT / "recipes" / "paper" / "qwen.toml")
    with pytest.raises(UserError) as caught:
        plan_recipe(recipe, SLOW, Assumptions(prompt_length=1))
    assert {problem.where for problem in caught.value.problems} >= {"Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"}


def test_every_option_of_calibration_can_be_planned() -> None:
    raw = load_recipe(ROOT / "recipes" / "lab.toml", ['only=["maths"]']).model_dump()
    raw["calibrate"] |= {"accuracy_floor": {"accuracy": 0.9}, "anchor_coefficient": 0.0, "use_vllm": True}
    raw["distill"]["arms"][0] |= {"objectives": ["reverse_kl"], "on_policy_share": 0.5}
    plan = plan_recipe(Recipe.model_validate(raw), replace(SLOW, devices=2), Assumptions())
    assert "reference" not in {line.part for line in plan.lines}
    assert "vLLM's share" in plan.memory["maths"]["calibrate"].stays
    assert "teacher" in plan.memory["maths"]["students"].stays


def test_the_command_line_plans(tmp_path: Path) -> None:
    recipe = "recipes/lab.toml"
    found = json.loads(run("plan", recipe, "--hardware", "h100x2", "--usd-per-hour", "2", "--json").stdout)
    assert found["usd"] == pytest.approx(2 * found["device_hours"])
    assert found["hardware"]["devices"] == 2
    shown = run("plan", recipe, "--hardware", "h100", "--completion-length", "30").stdout
    assert "lab:maths/teacher" in shown and "keys and values" in shown and "device-hours" in shown
    refused = run("plan", recipe, "--hardware", "abacus", check=False)
    assert refused.returncode == 2 and "abacus" in refused.stderr
