"""Models that a user brings: base models without a chat template, adapters, and prompts that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from distillability.errors import UserError
from distillability.inference import complete, generate
from distillability.models.chat import end_of_turn_id, prompt_ids
from distillability.models.facts import read_facts
from distillability.models.load import default_device, initialise_student, load_model, load_tokenizer


@pytest.fixture
def base(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """A model without a chat template."""
    folder = Path(shutil.copytree(tiny["proxy"], tmp_path / "base"))
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter of the tiny teacher that changes what it says, saved without a tokenizer."""
    torch.manual_seed(0)
    model = get_peft_model(load_model(tiny["teacher"]).model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_base_model_is_refused_until_a_template_is_named(base: Path, tmp_path: Path) -> None:
    assert not read_facts(str(base)).has_chat_template
    with pytest.raises(UserError, match='chat_template = "plain"'):
        complete(load_model(base), ["1+1"], decoding="greedy", max_new_tokens=2, seed=0)
    (tmp_path / "mine.jinja").write_text("{{ messages[0]['content'] }}=")
    mine = load_tokenizer(base, chat_template=str(tmp_path / "mine.jinja"))
    assert mine.decode(prompt_ids(mine, "1+1")) == "1+1="
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(base, chat_template="nowhere.jinja")


def test_the_plain_template_is_kept_when_the_model_is_saved(base: Path, tmp_path: Path) -> None:
    loaded = load_model(base, chat_template="plain")
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "2+2"}]
    rendered = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "Question:\n1+1\n\nAnswer:\n2\n\nQuestion:\n2+2\n\nAnswer:\n"
    assert complete(loaded, ["1+1"], decoding="greedy", max_new_tokens=2, seed=0).texts
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == loaded.tokenizer.chat_template


def test_variables_of_a_template_are_saved_with_the_model(base: Path, tmp_path: Path) -> None:
    (tmp_path / "thinks.jinja").write_text(
        "{{ messages[0]['content'] }}{{ depth }}{% if thinks is defined and not thinks %}-{% endif %}{{ mark }}"
    )
    own = {"chat_template": str(tmp_path / "thinks.jinja"), "chat_template_kwargs": {"thinks": False, "depth": 3, "mark": 'a"b'}}
    tokenizer = load_tokenizer(base, **own)  # type: ignore[arg-type]
    asked: dict[str, Any] = {"conversation": [{"role": "user", "content": "1+1"}], "tokenize": False}
    assert tokenizer.apply_chat_template(**asked) == '1+13-a"b'
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").apply_chat_template(**asked) == '1+13-a"b'
    assert load_tokenizer(tmp_path / "saved", **own).chat_template == tokenizer.chat_template  # type: ignore[arg-type]


@pytest.fixture
def gemma_like(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose turns end with another token than the one that its tokenizer calls the end of a sequence."""
    folder = Path(shutil.copytree(tiny["teacher"], tmp_path / "gemma-like"))
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ message.content }}<end>", "{{ message.content }}<user>\n")
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template)
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<end>"
    return folder


def test_a_turn_ends_with_what_the_template_ends_it_with(tiny: dict[str, Path], gemma_like: Path, base: Path, tmp_path: Path) -> None:
    for folder, end in ((tiny["teacher"], "<end>"), (gemma_like, "<user>"), (base, "<end>")):
        tokenizer = load_tokenizer(folder, chat_template="plain")
        assert tokenizer.eos_token == read_facts(str(folder)).end_of_turn() == end
        assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids(end)
        tokenizer.save_pretrained(tmp_path / "saved")
        assert load_tokenizer(tmp_path / "saved").eos_token == end
    (base / "chat_template.jinja").write_text("{{ raise_exception('only one message') }}")
    assert load_tokenizer(base).eos_token == read_facts(str(base)).end_of_turn() == "<end>"  # nothing can be rendered


def test_a_text_ends_where_the_model_ends_its_turn(gemma_like: Path) -> None:
    """Both decoders stop at it, and none takes the tokenizer's own end for one."""
    loaded = load_model(gemma_like)
    loaded.model.config.eos_token_id = loaded.model.generation_config.eos_token_id = None
    head = loaded.model.get_output_embeddings()
    ends = {name: loaded.tokenizer.convert_tokens_to_ids(name) for name in ("<end>", "<user>")}
    for name, truncated in (("<user>", False), ("<end>", True)):
        with torch.no_grad():
            head.weight.copy_(torch.zeros_like(head.weight))
            states = loaded.model(torch.tensor([prompt_ids(loaded.tokenizer, "1+1")]), output_hidden_states=True).hidden_states[-1][0, -1]
            head.weight[ends[name]] = states  # the first token said
        assert complete(loaded, ["1+1"], decoding="greedy", max_new_tokens=1, seed=0).truncated == [truncated]


def test_a_template_of_ones_own_is_never_replaced(tiny: dict[str, Path]) -> None:
    assert load_tokenizer(tiny["teacher"], chat_template="plain").chat_template == load_tokenizer(tiny["teacher"]).chat_template


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # of peft, which looks for one in the first adapter's folder
@torch.no_grad()
def test_an_adapter_is_its_model_with_the_adapter_merged(tiny: dict[str, Path], adapter: Path, tmp_path: Path) -> None:
    ids = torch.tensor([[3, 4, 5]])
    plain, adapted = load_model(tiny["teacher"]), load_model(adapter)
    facts, of_base = read_facts(str(adapter)), read_facts(str(tiny["teacher"]))
    assert facts.is_causal and facts.has_safetensors and facts.has_chat_template
    assert facts.vocabulary == of_base.vocabulary and facts.context == of_base.context
    assert adapted.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    assert not torch.allclose(plain.model(ids).logits, adapted.model(ids).logits)
    assert type(initialise_student(adapter, 0).model) is type(plain.model)

    torch.manual_seed(1)
    further = get_peft_model(adapted.model, LoraConfig(target_modules=["o_proj"], init_lora_weights=False))
    further.save_pretrained(tmp_path / "further")
    wanted = further(ids).logits
    torch.testing.assert_close(load_model(tmp_path / "further").model(ids).logits, wanted, atol=1e-5, rtol=1e-5)
    assert read_facts(str(tmp_path / "further")).layers_folder == tiny["teacher"]


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # peft says so, and goes on
@pytest.mark.parametrize("what", ["teacher", "adapter"])
def test_files_that_lack_weights_are_refused(tiny: dict[str, Path], adapter: Path, tmp_path: Path, what: str) -> None:
    """Else the rest would be as it was drawn: an adapter without any is its model, and looks calibrated."""
    folder = tmp_path / "holes"
    shutil.copytree(adapter if what == "adapter" else tiny["teacher"], folder)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(name for name in weights if "q_proj" in name)[0]
    save_file({name: weight for name, weight in weights.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"its files lack 1 of its weights, {lost}"):
        load_model(folder)


def test_a_student_takes_its_shape_from_an_adapter_of_a_model_of_the_lab(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "lab:maths/student"}))
    assert initialise_student(adapter, 0).model.config.vocab_size == load_model("lab:maths/student").model.config.vocab_size


def test_an_adapters_own_tokenizer_goes_first(tiny: dict[str, Path], adapter: Path) -> None:
    tokenizer = load_tokenizer(tiny["teacher"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(adapter)
    assert load_tokenizer(adapter).chat_template == tokenizer.chat_template
    assert read_facts(str(adapter)).tokenizer_folder == adapter


@pytest.mark.parametrize("config", ["{", "{}", "[]", '{"base_model_name_or_path": "./nowhere"}'])
def test_an_adapter_of_nothing(tmp_path: Path, config: str) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    for read in (read_facts, load_model):
        with pytest.raises(UserError, match=r"does not name the model it changes|is not there"):
            read(str(tmp_path))


def test_a_prompt_longer_than_the_context_is_the_users_to_mend(tiny: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="exceed its context, 256"):
        complete(load_model(tiny["teacher"]), ["1" * 300], decoding="greedy", max_new_tokens=2, seed=0)


def test_generation_settings_that_a_model_was_published_with_change_no_text(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, prompts = load_model(tiny["teacher"]), [f"{number}+1" for number in range(6)]
    ours = complete(loaded, prompts, decoding="greedy", max_new_tokens=12, seed=0).texts
    monkeypatch.setattr(generate, "unsupported", lambda *_: "a test")
    loaded.model.generation_config.repetition_penalty = 5.0
    loaded.model.generation_config.suppress_tokens = [int(loaded.tokenizer.convert_tokens_to_ids(ours[0][0]))]
    assert complete(loaded, prompts, decoding="greedy", max_new_tokens=12, seed=0).texts == ours
    assert loaded.model.generation_config.repetition_penalty == 5.0


def test_a_text_behind_a_prefill_keeps_the_space_that_it_begins_with(tmp_path: Path) -> None:
    """As tokenizers read that write a space as a mark of its own, and drop the first."""
    tokenizer = Tokenizer(BPE({"<end>": 0, "▁": 1, "a": 2, "b": 3}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = Metaspace(prepend_scheme="first"), MetaspaceDecoder(prepend_scheme="first")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    assert generate._continued(fast, "a", "b", [1, 3]) == "a b"
    assert generate._continued(fast, "", "b", [1, 3]) == "b"


@pytest.mark.parametrize(("devices", "rank", "found"), [(0, None, "cpu"), (0, "1", "cpu"), (2, "1", "cuda:1"), (1, "3", "cuda:0")])
def test_every_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch, devices: int, rank: str | None, found: str) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: devices)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert default_device() == torch.device(found)
