"""The short paths of the GRPO step give what TRL's own code gives: loss, gradients, log-probabilities, anchor."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import GRPOTrainer

from distillability.config.recipe import Calibrate, Teacher
from distillability.inference.likelihood import Scorer
from distillability.models.load import load_model
from distillability.ops.policy_loss import clipped_token_loss
from distillability.training.calibrate_teacher import _grpo_config
from distillability.training.lean_grpo import LeanGRPOTrainer, _passes
from distillability.training.reward import CompositeReward
from tiny import Parity

LENGTH = 12


def _trainer(tiny: dict[str, Path], folder: Path, *, lora: bool = False, **changes: Any) -> LeanGRPOTrainer:
    loaded = load_model(tiny["teacher"])
    model: Any = loaded.model
    if lora:
        torch.manual_seed(5)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    settings = Calibrate(prompts_per_step=4, num_generations=4, max_steps=3)
    args = _grpo_config(settings, loaded, LENGTH, 0, None, folder)
    for name, value in changes.items():
        setattr(args, name, value)
    rows = [{"prompt": [{"role": "user", "content": str(number)}]} for number in range(12)]
    trainer = LeanGRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _inputs(trainer: LeanGRPOTrainer, *, anchor: bool, old: bool, sampled_by: str = "us") -> dict[str, torch.Tensor]:
    """A batch with prompts and completions of mixed lengths, in which every completion but the first few comes twice or more."""
    rng, vocabulary = random.Random(0), trainer.model.config.vocab_size
    prompts = [[rng.randrange(4, vocabulary) for _ in range(rng.randint(2, 6))] for _ in range(4)]
    rows = []
    for prompt in prompts:
        texts = [[rng.randrange(4, vocabulary) for _ in range(rng.randint(1, LENGTH - 1))] + [3] for _ in range(2)]
        rows += [(prompt, rng.choice(texts), rng.choice((1.0, -0.5))) for _ in range(4)]
    width = max(len(prompt) for prompt, _, _ in rows)
    length = max(len(text) for _, text, _ in rows)
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for _, text, _ in rows])
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _, _ in rows]),
        "prompt_mask": torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _, _ in rows]),
        "completion_ids": torch.tensor([text + [0] * (length - len(text)) for _, text, _ in rows]),
        "completion_mask": mask,
        "advantages": torch.tensor([advantage for _, _, advantage in rows]),
        "num_items_in_batch": mask.sum(),
    }
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    whole = torch.cat([inputs["prompt_mask"], mask], 1)
    with torch.no_grad():
        logprobs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, whole, length)
    if anchor:
        inputs["ref_per_token_logps"] = logprobs - 0.1 * (ids[:, -length:] % 3)
    if old:
        inputs["old_per_token_logps"] = logprobs + 0.15 * (ids[:, -length:] % 2) - 0.1
    if sampled_by != "us":
        ratio = torch.linspace(0.5, 1.5, len(rows) * length).view(len(rows), length)
        inputs["importance_sampling_ratio"] = ratio if sampled_by == "vLLM, by token" else ratio[:, :1]
        inputs["sampling_per_token_logps"] = logprobs
    return inputs


def _gradients(trainer: LeanGRPOTrainer, loss: torch.Tensor) -> Iterator[torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return (parameter.grad.clone() for parameter in trainer.model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    ("anchor", "reverse", "old"), [(True, True, False), (True, False, False), (False, True, False), (True, True, True), (True, False, True)]
)
def test_the_short_loss_is_trls(tiny: dict[str, Path], tmp_path: Path, anchor: bool, reverse: bool, old: bool, lora: bool) -> None:
    trainer = _trainer(tiny, tmp_path, lora=lora, beta=0.05 if anchor else 0.0, use_bias_correction_kl=reverse)
    inputs = _inputs(trainer, anchor=anchor, old=old)
    assert trainer._has_short_loss(inputs)
    ours = trainer._compute_loss(trainer.model, dict(inputs))
    anchors = trainer.last_anchor
    gradients = list(_gradients(trainer, ours))
    theirs = GRPOTrainer._compute_loss(trainer, trainer.model, dict(inputs))
    expected = list(_gradients(trainer, theirs))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert len(gradients) == len(expected) > 0
    for mine, stock in zip(gradients, expected, strict=True):
        assert torch.allclose(mine, stock, atol=1e-6)
    assert any(stock.abs().max() > 1e-4 for stock in expected)
    if anchor:
        difference = (trainer._policy_logprobs - inputs["ref_per_token_logps"]) * inputs["completion_mask"]
        assert torch.allclose(anchors, difference.sum(1), atol=1e-5)
    else:
        assert anchors is None


@pytest.mark.parametrize("sampled_by", ["vLLM, by token", "vLLM, by sequence"])
def test_the_short_loss_is_trls_where_vllm_samples(tiny: dict[str, Path], tmp_path: Path, sampled_by: str) -> None:
    trainer = _trainer(tiny, tmp_path, beta=0.05, use_bias_correction_kl=True)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    inputs = _inputs(trainer, anchor=True, old=True, sampled_by=sampled_by)
    assert trainer._has_short_loss(inputs)
    ours = trainer._compute_loss(trainer.model, dict(inputs))
    gradients = list(_gradients(trainer, ours))
    theirs = GRPOTrainer._compute_loss(trainer, trainer.model, dict(inputs))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for mine, stock in zip(gradients, _gradients(trainer, theirs), strict=True):
        assert torch.allclose(mine, stock, atol=1e-6)
    without = trainer._compute_loss(trainer.model, inputs | {"importance_sampling_ratio": torch.ones(len(inputs["advantages"]), 1)})
    assert abs(without.item() - ours.item()) > 1e-4


def test_settings_beyond_the_short_loss_run_trls_own(tiny: dict[str, Path], tmp_path: Path) -> None:
    trainer = _trainer(tiny, tmp_path, loss_type="grpo")
    inputs = _inputs(trainer, anchor=True, old=False)
    assert not trainer._has_short_loss(inputs)
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    assert loss.item() == pytest.approx(GRPOTrainer._compute_loss(trainer, trainer.model, dict(inputs)).item(), abs=1e-7)
    assert trainer.last_anchor is not None


def test_the_surprisal_is_that_of_trls_log_probabilities(tiny: dict[str, Path], tmp_path: Path) -> None:
    """By both paths; its mean over tokens is the entropy that TRL's names carry."""
    for name, changes in (("short", {}), ("whole", {"loss_type": "grpo"})):
        trainer = _trainer(tiny, tmp_path / name, **changes)
        inputs = _inputs(trainer, anchor=True, old=False)
        ids, mask = (torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], 1) for kind in ("ids", "mask"))
        width, used = inputs["completion_ids"].shape[1], inputs["completion_mask"]
        with torch.no_grad():
            theirs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, width)
        trainer._compute_loss(trainer.model, dict(inputs))
        assert torch.allclose(trainer.last_surprisal, -(theirs * used).sum(1), atol=1e-4)
        if name == "short":
            mean = (trainer.last_surprisal.sum() / used.sum()).item()
            assert trainer._metrics["train"]["entropy"][-1] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("most_rows", [3, 100])
def test_log_probabilities_without_gradient_are_trls(tiny: dict[str, Path], tmp_path: Path, most_rows: int) -> None:
    trainer = _trainer(tiny, tmp_path)
    inputs = _inputs(trainer, anchor=False, old=False)
    ids, mask = (torch.cat([inputs[f"prompt_{kind}"], inputs[f"completion_{kind}"]], 1) for kind in ("ids", "mask"))
    width, used = inputs["completion_ids"].shape[1], inputs["completion_mask"]
    with torch.no_grad():
        ours, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, batch_size=most_rows)
        theirs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, trainer.model, ids, mask, width, batch_size=most_rows)
    assert torch.allclose(ours * used, theirs * used, atol=1e-5)
    assert trainer.reference_sums is not None
    assert torch.allclose(trainer.reference_sums, (theirs * used).sum(1), atol=1e-4)


@pytest.mark.parametrize("old", [None, [-1.0, -0.5, -2.0]])
def test_the_token_loss_from_its_definition(old: list[float] | None) -> None:
    logprobs, advantages, reference = [-1.2, -0.1, -2.0], [1.0, -2.0, 0.5], [-1.0, -0.3, -2.5]
    expected = []
    for index, logprob in enumerate(logprobs):
        before = logprob if old is None else old[index]
        ratio = torch.tensor(logprob - before, dtype=torch.float64).exp().item()
        d = reference[index] - logprob
        k3 = torch.tensor(d, dtype=torch.float64).exp().item() - d - 1
        clipped = min(max(ratio, 0.8), 1.3)
        expected.append(-min(ratio * advantages[index], clipped * advantages[index]) + 0.05 * k3 * ratio)
    found = clipped_token_loss(
        torch.tensor(logprobs, dtype=torch.float64),
        advantages=torch.tensor(advantages),
        old=None if old is None else torch.tensor(old),
        reference=torch.tensor(reference),
        clip=(0.2, 0.3),
        anchor_coefficient=0.05,
        reverse_anchor=True,
    )
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_anchors_reference_serves_c_where_the_text_encodes_alike(tiny: dict[str, Path]) -> None:
    """Values are those of scoring anew; a completion whose text encodes to other ids is scored anew, and the share says so."""
    loaded, proxy = load_model(tiny["teacher"]), load_model(tiny["proxy"])
    task, tokenizer = Parity(), loaded.tokenizer
    prompts = task.prompts("calibrate", 1)
    texts = ["12", "3+4", "55", "12"]
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    ids[2] = [tokenizer.pad_token_id, *ids[2]]  # decodes to the same text and is not what the text encodes to
    reference = Scorer(loaded.model, tokenizer)
    reward = CompositeReward(
        task=task,
        settings=Calibrate(prompts_per_step=1, num_generations=4),
        teacher=Teacher(knob=1.0),
        scale=1.0,
        policy_tokenizer=tokenizer,
        proxies=[Scorer(proxy.model, proxy.tokenizer)],
        reference=reference,
        prompts={prompt.id: prompt for prompt in prompts},
    )
    question = [prompts[0]] * 4
    plain, _, none_reused = reward._calibration_values(question, texts, [False] * 4, ids)
    assert none_reused == 0.0
    sums = torch.tensor([score.logprob for score in reference.score([prompts[0].text] * 4, texts) if score is not None])
    reward.known_reference = lambda: sums
    reused, _, share = reward._calibration_values(question, texts, [False] * 4, ids)
    assert share == pytest.approx(2 / 3), "two of three distinct texts"
    assert torch.allclose(plain, reused, atol=1e-5)
    reward.known_reference = lambda: sums + 1.0
    shifted, _, _ = reward._calibration_values(question, texts, [False] * 4, ids)
    assert shifted[0, 2] == pytest.approx(plain[0, 2].item(), abs=1e-6)
    assert shifted[0, 0] != pytest.approx(plain[0, 0].item(), abs=1e-3)


@pytest.mark.parametrize(
    ("lengths", "most_rows", "expected"),
    [
        ([40] * 30 + [46] * 10, 64, [40]),  # nothing to save by cutting
        ([40] * 30 + [46] * 10, 16, [16, 16, 8]),
        ([10] * 8 + [100] * 8, 64, [8, 8]),
        ([10, 100], 64, [2]),  # too few to be worth a pass
        ([10 * 2 ** (row // 10) for row in range(40)], 64, [10, 10, 10, 10]),
        ([7], 1, [1]),
    ],
)
def test_passes_hold_rows_of_like_length(lengths: list[int], most_rows: int, expected: list[int]) -> None:
    parts = list(_passes(lengths, most_rows))
    assert [part.stop - part.start for part in parts] == expected
    assert [row for part in parts for row in range(len(lengths))[part]] == list(range(len(lengths)))
