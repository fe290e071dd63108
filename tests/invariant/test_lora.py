"""An adapter in place of all weights: the original is the model without it, and what is saved loads as it is anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from test_calibration import SETTINGS, _arguments, _calibrate, _weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillability.config.recipe import Lora
from distillability.errors import UserError
from distillability.files import read_jsonl
from distillability.inference.likelihood import Scorer
from distillability.models.load import load_model
from distillability.training import calibrate_teacher as module
from distillability.training.lora import AdapterOffScorer
from distillability.training.reward import CompositeReward
from tiny import tiny_models

LORA = Lora(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits
    return logits


def _changed(folder: Path, tiny: dict[str, Path]) -> set[str]:
    """Last parts of the names of the layers whose weights are not the plain teacher's."""
    plain = load_model(tiny["teacher"]).model.state_dict()
    found = load_model(folder / "model").model.state_dict()
    assert set(plain) == set(found)
    return {name.split(".")[-2] for name in plain if not torch.equal(plain[name], found[name])}


def test_only_the_target_modules_change(tiny: dict[str, Path], tmp_path: Path) -> None:
    _calibrate(tiny, tmp_path, knob=1.0, lora=LORA)
    assert _changed(tmp_path, tiny) == {"q_proj", "down_proj"}


def test_without_names_every_linear_layer_but_the_head_is_trained(tiny: dict[str, Path], tmp_path: Path) -> None:
    _calibrate(tiny, tmp_path, knob=1.0, lora=Lora(r=2))
    assert _changed(tmp_path, tiny) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_what_is_saved_loads_in_plain_transformers_and_peft(tiny: dict[str, Path], tmp_path: Path) -> None:
    for save in ("merged", "adapter"):
        _calibrate(tiny, tmp_path / save, knob=1.0, lora=LORA.model_copy(update={"save": save}))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "model", dtype=torch.float32)
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter" / "model", dtype=torch.float32)
    ours = load_model(tmp_path / "adapter" / "model")
    assert isinstance(adapted, PeftModel) and not isinstance(ours.model, PeftModel)
    assert not (tmp_path / "adapter" / "model" / "model.safetensors").exists()
    assert not list((tmp_path / "merged" / "model").glob("adapter*"))
    assert torch.allclose(_logits(merged), _logits(adapted), atol=1e-5)
    assert torch.equal(_logits(ours.model), _logits(load_model(tmp_path / "merged" / "model").model))
    assert not torch.allclose(_logits(merged), _logits(load_model(tiny["teacher"]).model), atol=1e-3)
    for name in ("merged", "adapter"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name / "model")
        assert (
            tokenizer.chat_template == ours.tokenizer.chat_template and tokenizer("1+2")["input_ids"] == ours.tokenizer("1+2")["input_ids"]
        )


def test_an_adapters_folder_is_a_teacher_like_its_merged_model(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The frozen reference, which TRL loads by the adapter's name, is the adapted model; else the anchor would pull the policy off it."""
    model = get_peft_model(load_model(tiny["teacher"]).model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    merged = load_model(tmp_path / "adapter")
    for part in (merged.model, merged.tokenizer):
        part.save_pretrained(tmp_path / "merged")
    for name in ("adapter", "merged"):
        _calibrate({**tiny, "teacher": tmp_path / name}, tmp_path / f"from-{name}", knob=1.0)
    both = [load_model(tmp_path / f"from-{name}" / "model").model for name in ("adapter", "merged")]
    assert torch.allclose(*map(_logits, both), atol=1e-4)
    assert not torch.allclose(_logits(both[0]), _logits(merged.model), atol=1e-4)
    anchors = [[line["anchor_nats"] for line in read_jsonl(tmp_path / f"from-{name}" / "metrics.jsonl")] for name in ("adapter", "merged")]
    assert anchors[0] == pytest.approx(anchors[1], abs=1e-4) and abs(anchors[0][0]) < 1e-3


def test_an_adapter_whose_model_is_gone_says_so(tmp_path: Path) -> None:
    moved = tiny_models(tmp_path / "models")
    _calibrate(moved, tmp_path / "out", knob=1.0, lora=LORA.model_copy(update={"save": "adapter"}))
    moved["teacher"].rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "out" / "model")
    assert str(moved["teacher"]) in caught.value.problems[0].what


@pytest.mark.parametrize("coefficient", [0.05, 0.0])
def test_the_reference_is_the_model_without_its_adapter(tiny: dict[str, Path], tmp_path: Path, coefficient: float) -> None:
    settings = SETTINGS.model_copy(update={"lora": LORA, "anchor_coefficient": coefficient})
    arguments = _arguments(tiny, tmp_path, 1.0, settings)
    trainer = module.calibration_trainer(module.Calibration(**arguments))
    assert trainer.ref_model is None, "no second copy"
    scorer = trainer.reward.reference
    assert isinstance(scorer, AdapterOffScorer)
    plain = load_model(tiny["teacher"])
    expected = Scorer(plain.model, plain.tokenizer).score(["1", "2"], ["12", "3+4"])
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    assert scorer.score(["1", "2"], ["12", "3+4"]) == expected
    assert Scorer(trainer.model, plain.tokenizer).score(["1", "2"], ["12", "3+4"]) != expected, "the adapter is on again"


def test_the_first_step_is_that_of_all_weights(tiny: dict[str, Path], tmp_path: Path) -> None:
    """An adapter starts at nothing, so both draw, score and anchor alike."""
    _calibrate(tiny, tmp_path / "all", knob=1.0)
    _calibrate(tiny, tmp_path / "lora", knob=1.0, lora=LORA)
    ours, theirs = (read_jsonl(tmp_path / name / "metrics.jsonl")[0] for name in ("lora", "all"))
    for key in ("task_reward", "compatibility", "bytes", "entropy", "nats_per_byte_under_plain"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5)
    assert ours["anchor_nats"] == pytest.approx(0.0, abs=1e-4)
    assert read_jsonl(tmp_path / "lora" / "metrics.jsonl")[-1]["anchor_nats"] != pytest.approx(0.0, abs=1e-4)


def test_a_missing_target_module_lists_those_there_are(tiny: dict[str, Path], tmp_path: Path) -> None:
    lora = Lora(target_modules=["q_proj", "query_proj", "lm_head"])
    with pytest.raises(UserError) as caught:
        _calibrate(tiny, tmp_path, knob=1.0, lora=lora)
    query, head = caught.value.problems
    assert query.where == "calibrate.lora.target_modules" and "'query_proj'" in query.what
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in query.fix
    assert "'lm_head'" in head.what


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_an_overspent_anchor_goes_back_to_the_plain_teacher(tiny: dict[str, Path], tmp_path: Path, save: Any) -> None:
    lora = LORA.model_copy(update={"save": save})
    outcome = _calibrate(tiny, tmp_path, knob=1.0, anchor_budget=1e-6, learning_rate=5e-2, lora=lora)
    assert outcome["kept_step"] == 0 and "over its budget" in outcome["stopped"]
    assert _changed(tmp_path, tiny) == set()


def test_a_later_stop_goes_back_to_a_checkpoint_of_the_adapter(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pop = module.CalibrationTrainer.pop_step
    spent = [0.1, 0.1, 9.0]
    monkeypatch.setattr(module.CalibrationTrainer, "pop_step", lambda self: pop(self) | {"anchor_nats": spent[self.state.global_step - 1]})
    outcome = _calibrate(tiny, tmp_path, knob=1.0, anchor_budget=1.0, lora=LORA)
    assert outcome["kept_step"] == 1
    checkpoint = load_model(tmp_path / "checkpoints" / "checkpoint-1").model
    assert torch.equal(_weights(tmp_path), torch.cat([parameter.detach().flatten() for parameter in checkpoint.parameters()]))
    assert _changed(tmp_path, tiny) == {"q_proj", "down_proj"}


def test_a_killed_calibration_of_an_adapter_resumes_to_the_same_weights(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = LORA.model_copy(update={"lora_dropout": 0.2})
    _calibrate(tiny, tmp_path / "whole", knob=1.0, lora=lora)

    class Killed(BaseException):
        pass

    call = CompositeReward.__call__

    def kill_in_step_3(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["trainer_state"].global_step == 2:
            raise Killed
        return call(self, *args, **kwargs)

    monkeypatch.setattr(CompositeReward, "__call__", kill_in_step_3)
    with pytest.raises(Killed):
        _calibrate(tiny, tmp_path / "killed", knob=1.0, lora=lora)
    monkeypatch.undo()
    torch.manual_seed(99)  # the adapter's first weights come from the seed, whatever was drawn before
    _calibrate(tiny, tmp_path / "killed", knob=1.0, lora=lora)
    assert torch.equal(_weights(tmp_path / "killed"), _weights(tmp_path / "whole"))
