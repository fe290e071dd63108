"""The private names of TRL that `training/lean_grpo.py` leans on. When one of these fails, read that file before changing the pin."""

from __future__ import annotations

import inspect

import trl
from trl import GRPOConfig, GRPOTrainer

from distillability.training.lean_grpo import LeanGRPOTrainer


def test_the_overridden_methods_have_the_shape_we_know() -> None:
    scoring = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies)
    assert list(scoring.parameters)[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    assert LeanGRPOTrainer._compute_loss is not GRPOTrainer._compute_loss


def test_the_loss_reads_the_fields_we_read() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    for name in ('"completion_mask"', '"ref_per_token_logps"', "use_bias_correction_kl", "coef_1"):
        assert name in source, name
    assert "self.ref_model" in inspect.getsource(GRPOTrainer.__init__)


def test_the_advantage_is_the_reward_less_its_group_mean() -> None:
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "advantages = rewards - mean_grouped_rewards" in source
    assert "std_rewards + 1e-4" in source


def test_the_config_fields_we_set_exist() -> None:
    fields = {"beta", "scale_rewards", "loss_type", "use_bias_correction_kl", "num_generations", "max_completion_length", "temperature"}
    assert fields <= {field.name for field in GRPOConfig.__dataclass_fields__.values()}, trl.__version__
