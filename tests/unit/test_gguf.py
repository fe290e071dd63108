"""GGUF files: read as what they are, converted once, and refused where the result would be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillability.config.recipe import Calibrate, Teacher
from distillability.errors import UserError
from distillability.files import new_folder, read_jsonl
from distillability.inference.likelihood import Scorer
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.chat import completion_ids, prompt_ids, round_trips
from distillability.models.convert import as_folder, convert, converted_folder
from distillability.models.facts import read_facts
from distillability.models.gguf import read_header
from distillability.models.load import initialise_student, load_model, load_tokenizer
from distillability.training.calibrate_teacher import Calibration, calibrate_teacher
from tiny import Parity, tiny_gguf, tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_facts(str(path))
    return str(caught.value)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(40)[None]).logits


# Loading


def test_a_gguf_loads_as_the_model_it_was_written_from(path: Path) -> None:
    source = tiny_gguf(path)
    loaded = load_model(path)
    assert loaded.reference == str(path)
    torch.testing.assert_close(logits(loaded.model), logits(source), rtol=1e-4, atol=1e-4)


def test_its_name_leads_to_an_ordinary_folder(path: Path) -> None:
    """TRL loads its reference model by the name in the configuration."""
    tiny_gguf(path)
    loaded = load_model(path)
    folder = loaded.model.config._name_or_path
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert torch.equal(logits(again), logits(loaded.model))
    assert not {"gguf_file", "quantization_config", "_model_name_or_path"} & set(json.loads(Path(folder, "config.json").read_text()))


def test_it_is_converted_once_and_again_when_it_changes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_gguf(path)
    folder = as_folder(str(path))
    assert as_folder(str(path)) == folder
    assert [record.getMessage() for record in caplog.records] == [
        f"converted {path} (llama, 0.0 M weights in float32; fixed: digits stand alone) to {folder}"
    ]
    tiny_gguf(path, pre="default")
    assert as_folder(str(path)) != folder


def test_a_fresh_student_has_its_shape_and_tokenizer(path: Path) -> None:
    tiny_gguf(path)
    one, other = (initialise_student(path, seed) for seed in (0, 1))
    assert one.model.config.num_hidden_layers == 2
    assert not torch.equal(logits(one.model), logits(other.model))
    assert one.tokenizer.get_vocab() == load_tokenizer(path).get_vocab()


def test_a_gguf_can_be_calibrated(path: Path, tmp_path: Path, tiny: dict[str, Path]) -> None:
    """TRL loads its own reference, and ours is that one."""
    tiny_gguf(path)
    task = Parity()
    outcome = calibrate_teacher(
        Calibration(
            loaded=load_model(path),
            proxies=[load_model(tiny["proxy"])],
            task=task,
            prompts=task.prompts("calibrate", 4),
            teacher=Teacher(knob=1.0),
            settings=Calibrate(prompts_per_step=2, num_generations=4, max_steps=2, save_steps=1, learning_rate=1e-3, require="none"),
            scale=1.0,
            max_completion_length=8,
            seed=0,
            autocast_dtype=None,
            folder=tmp_path / "calibration",
        )
    )
    assert outcome["steps"] == 2
    first, _ = read_jsonl(tmp_path / "calibration" / "metrics.jsonl")
    assert first["anchor_nats"] == pytest.approx(0, abs=1e-4)
    assert load_tokenizer(tmp_path / "calibration" / "model").tokenize("12") == ["1", "2"]


def test_weights_midway_between_two_bfloat16_numbers_move_and_round_as_before(path: Path) -> None:
    """Else the first optimiser step of any size tips all of them over at once."""
    source = tiny_gguf(path, half=True)
    loaded = load_model(path)
    n_ties = 0
    for before, after in zip(source.parameters(), loaded.model.parameters(), strict=True):
        ties = (before.view(torch.int32) & 0xFFFF) == 0x8000
        assert torch.equal(before.bfloat16(), after.bfloat16())
        assert torch.equal(before[~ties], after[~ties])
        assert not torch.isin(after[ties].view(torch.int32) & 0xFFFF, torch.tensor([0x8000])).any()
        n_ties += int(ties.sum())
    assert 0.1 < n_ties / sum(weight.numel() for weight in source.parameters()) < 0.15


# The tokenizer


def test_the_tokenizer_pads_on_the_left_and_knows_its_length_and_its_template(path: Path) -> None:
    tiny_gguf(path)
    tokenizer = load_tokenizer(path)
    assert (tokenizer.padding_side, tokenizer.model_max_length, tokenizer.eos_token) == ("left", 256, "<|im_end|>")
    ids = prompt_ids(tokenizer, "the 12")
    assert tokenizer.decode(ids) == "<|im_start|>user\nthe 12<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(1) == 2 and ids.count(2) == 1


def test_digits_stand_alone_where_the_vocabulary_was_learnt_so(path: Path) -> None:
    tiny_gguf(path)
    tokenizer = load_tokenizer(path)
    assert tokenizer.tokenize("the 12") == ["the", "Ġ", "1", "2"]
    assert tokenizer.tokenize("the\n\n1") == ["the", "ĊĊ", "1"]
    assert round_trips(tokenizer, "the 12\n= 3.5")


def test_digits_stay_together_where_it_was_not(path: Path) -> None:
    tiny_gguf(path, pre="gpt-2")
    tokenizer = load_tokenizer(path)
    assert tokenizer.tokenize("the 12") == ["the", "Ġ", "12"]
    assert tokenizer.tokenize("the\n\n1") == ["the", "Ċ", "Ċ", "1"]


def test_a_text_with_digits_is_scored_by_the_tokens_of_its_digits(path: Path) -> None:
    """What transformers makes of such a file by itself has another likelihood."""
    source = tiny_gguf(path)
    loaded = load_model(path)
    plain = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    (fixed,), (unmended,) = (Scorer(source, tokenizer).score(["the"], ["12"]) for tokenizer in (loaded.tokenizer, plain))
    assert fixed is not None and unmended is not None
    assert (fixed.n_tokens, unmended.n_tokens) == (2, 1)
    ids = [*prompt_ids(loaded.tokenizer, "the"), *completion_ids(loaded.tokenizer, "12"), 2]
    with torch.no_grad():
        logprobs = source(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(float(logprobs[position - 1, ids[position]]) for position in range(len(ids) - 3, len(ids)))
    assert fixed.logprob == pytest.approx(expected, abs=1e-4)


# Checks without weights


def test_its_header_says_what_the_converted_folder_says(path: Path) -> None:
    tiny_gguf(path)
    facts, folder = read_facts(str(path)), read_facts(as_folder(str(path)))
    for name in ("is_causal", "context", "output_width", "vocabulary", "has_tokenizer", "has_chat_template", "has_safetensors"):
        assert getattr(facts, name) == getattr(folder, name), name
    assert facts.pickled_weights == []


def test_facts_convert_nothing(path: Path, cache: Path) -> None:
    tiny_gguf(path)
    read_facts(str(path))
    assert not cache.exists()


def test_what_fills_up_the_embedding_is_no_part_of_the_vocabulary() -> None:
    from distillability.models.gguf import GgufHeader

    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "[PAD2]"], "tokenizer.ggml.token_type": [1, 1, 5]}
    header = GgufHeader({"general.architecture": "qwen2", **tokens}, ())
    assert header.vocabulary == {"a": 0, "b": 1}
    assert header.config["vocab_size"] == 3


# Refusals


def test_a_file_that_is_not_there(path: Path) -> None:
    assert "there is no such file" in refusal(path)


def test_a_file_that_is_no_gguf(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else")
    message = refusal(path)
    assert f"{path}: not a GGUF file" in message
    assert "fix:" in message


def test_a_gguf_of_a_version_to_come(path: Path) -> None:
    path.write_bytes(b"GGUF" + (9).to_bytes(4, "little") + bytes(16))
    assert "a GGUF file of version 9" in refusal(path)


@pytest.mark.parametrize("kept", [10, 40, 700])
def test_a_gguf_cut_off_in_its_header(path: Path, kept: int) -> None:
    tiny_gguf(path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "a damaged GGUF file" in refusal(path)


def test_a_gguf_cut_off_in_its_weights(path: Path, cache: Path) -> None:
    tiny_gguf(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be converted"):
        load_model(path)
    assert not list(cache.rglob("*.safetensors"))


def test_a_header_of_noise(path: Path) -> None:
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 64)
    assert "a damaged GGUF file" in refusal(path)


def test_an_architecture_that_transformers_cannot_read(path: Path) -> None:
    tiny_gguf(path, architecture="mamba2")
    message = refusal(path)
    assert "architecture 'mamba2'" in message and "llama" in message


def test_stretched_positions_that_would_be_lost(path: Path) -> None:
    tiny_gguf(path, llama__rope__scaling__type="yarn")
    assert "position embeddings are stretched (rope.scaling.type = yarn)" in refusal(path)
    with pytest.raises(UserError, match="stretched"):
        load_model(path)


def test_the_package_gguf_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_gguf(path)
    monkeypatch.setattr("distillability.models.convert.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package gguf\n.*pip install 'distillability\[train\]'"):
        load_model(path)


def test_a_disk_without_room(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_gguf(path)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"takes 0\.0 GB, and 0\.0 GB are free there"):
        load_model(path)
    assert not list(cache.rglob("*.safetensors"))


# Folders


def test_the_work_of_another_process_is_kept(path: Path) -> None:
    tiny_gguf(path)
    folder = converted_folder(path)
    convert(path, folder)
    inode = (folder / "model.safetensors").stat().st_ino
    convert(path, folder)
    assert (folder / "model.safetensors").stat().st_ino == inode
    assert [inside.name for inside in folder.parent.iterdir()] == [folder.name]


def test_a_folder_is_replaced_unless_asked_to_keep_it(tmp_path: Path) -> None:
    for replace, expected in ((True, "b"), (False, "b")):
        with new_folder(tmp_path / "folder", replace=replace) as temporary:
            (temporary / "file").write_text("b" if replace else "c")
        assert (tmp_path / "folder" / "file").read_text() == expected


def test_the_header_is_read_without_its_arrays(path: Path) -> None:
    tiny_gguf(path)
    header = read_header(path)
    assert header.metadata["tokenizer.ggml.merges"] == 4
    assert header.tensors[0] == "token_embd.weight"


def test_a_student_of_another_vocabulary_differs(tmp_path: Path, path: Path) -> None:
    tiny_gguf(path)
    other = tiny_model(tmp_path / "other", character_tokenizer("0123"), seed=0)
    assert read_facts(str(path)).vocabulary != read_facts(str(other)).vocabulary
