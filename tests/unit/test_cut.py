"""A model cut from another is that model's layers and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from command_line import run
from distillability.errors import UserError
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.architectures import ARCHITECTURES
from distillability.models.cut import cut, evenly_spaced, keep_layers
from distillability.models.load import load_model

TOKENIZER = character_tokenizer("0123456789+=? ")
LAYERS = 6
IDS = torch.randint(4, len(TOKENIZER), (2, 9), generator=torch.Generator().manual_seed(0))


def _model(name: str) -> PreTrainedModel:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    special = {"pad_token_id": TOKENIZER.pad_token_id, "eos_token_id": TOKENIZER.eos_token_id, "bos_token_id": None}
    config = CONFIG_MAPPING[name](
        vocab_size=len(TOKENIZER), num_key_value_heads=2, head_dim=8, initializer_range=0.3, max_position_embeddings=256, **sizes, **special
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert isinstance(model, PreTrainedModel)
    return model


def _saved(name: str, folder: Path) -> Path:
    _model(name).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def _by_hand(model: Any, layers: list[int]) -> torch.Tensor:
    """Logits of a loop over some of a whole model's layers."""
    inner = model.model
    states = inner.embed_tokens(IDS)
    positions = torch.arange(IDS.shape[1])[None]
    mask = torch.full((IDS.shape[1], IDS.shape[1]), -torch.inf).triu(1)[None, None]
    for index in layers:
        layer = inner.layers[index]
        kinds = (layer.self_attn.layer_type,) if model.config.model_type == "gemma3_text" else ()
        states = layer(states, attention_mask=mask, position_embeddings=inner.rotary_emb(states, positions, *kinds))
        states = states[0] if isinstance(states, tuple) else states
    logits: torch.Tensor = model.lm_head(inner.norm(states))
    return logits


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("layers", [[0, 2, 5], [4, 1]])
def test_a_cut_model_is_a_loop_over_its_layers(name: str, layers: list[int], tmp_path: Path) -> None:
    with torch.no_grad():
        expected = _by_hand(_model(name), layers)
    done = cut(str(_saved(name, tmp_path / "whole")), tmp_path / "cut", layers)
    again = load_model(tmp_path / "cut").model
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS).logits, expected)
    assert done.n_weights == again.num_parameters() < _model(name).num_parameters()
    assert json.loads((tmp_path / "cut" / "origin.json").read_text())["layers"] == layers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_all_its_layers_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    whole = _saved(name, tmp_path / "whole")
    cut(str(whole), tmp_path / "cut")
    a, b = (load_model(path).model for path in (whole, tmp_path / "cut"))
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(weight, b.state_dict()[name]) for name, weight in a.state_dict().items())
    assert torch.equal(a(input_ids=IDS).logits, b(input_ids=IDS).logits)


def test_a_cut_model_decodes_with_a_cache(tmp_path: Path) -> None:
    cut(str(_saved("gemma3_text", tmp_path / "whole")), tmp_path / "cut", [5, 1, 3])
    model = load_model(tmp_path / "cut").model
    found = [model.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=cached, eos_token_id=None) for cached in (True, False)]
    assert torch.equal(*found)


def test_evenly_spaced_layers_keep_both_ends() -> None:
    assert evenly_spaced(30, 3) == [0, 14, 29]
    assert evenly_spaced(6, 6) == [0, 1, 2, 3, 4, 5]
    assert evenly_spaced(5, 1) == [0]
    for kept in range(1, 31):
        assert len(set(evenly_spaced(30, kept))) == kept
    with pytest.raises(UserError, match="30 layers"):
        evenly_spaced(30, 31)


@pytest.mark.parametrize("layers", [[], [0, 0], [6], [-1]])
def test_layers_that_are_not_there_are_refused(layers: list[int]) -> None:
    with pytest.raises(UserError, match="not different layers of 0 to 5"):
        keep_layers(_model("llama"), layers)


def test_the_command_line_cuts(tmp_path: Path) -> None:
    whole = str(_saved("qwen3", tmp_path / "whole"))
    done = json.loads(run("cut", whole, "--layers", "3", "--out", str(tmp_path / "cut"), "--json").stdout)
    assert done["layers"] == [0, 2, 5]
    for wrong, said in (("3", "exists already"), ("many", "not whole numbers"), ("7", "6 layers")):
        folder = tmp_path / ("cut" if wrong == "3" else "other")
        refused = run("cut", whole, "--layers", wrong, "--out", str(folder), check=False)
        assert refused.returncode == 2
        assert said in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_cut_student_is_healed_by_distill_alone(tmp_path: Path) -> None:
    """No calibration is made; the traces are given, as the answers of a JSONL file."""
    run("cut", str(_saved("llama", tmp_path / "whole")), "--layers", "2", "--out", str(tmp_path / "cut"), "--quiet")
    rows = [{"prompt": f"{a}+{b}=?", "trace": f"{a}+{b}={a + b}"} for a in range(10) for b in range(10)]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "heal.toml").write_text(
        'name = "heal"\ncalibrate.teachers = {}\n'
        '[[tasks]]\ntype = "data"\npath = "traces.jsonl"\nanswer_column = "trace"\n'
        'teacher = "whole"\nproxy = "cut"\nstudent = "cut"\nqueries = 20\nsteps = 4\nmax_completion_length = 12\n'
        '[[distill.arms]]\nsources = ["gold_answers"]\n[distill]\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    run("distill", "heal.toml", "--out", "out", "--quiet", cwd=tmp_path)
    (healed,) = (tmp_path / "out" / "distill").rglob("model")
    before, after = (load_model(path).model.state_dict() for path in (tmp_path / "cut", healed))
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())
