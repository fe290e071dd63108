"""A model with part of its vocabulary reads the texts it was cut for as before, and gives the same logits for what is left."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from command_line import run
from distillability.errors import UserError
from distillability.files import write_jsonl
from distillability.lab.tokenizers import word_tokenizer
from distillability.models.chat import completion_ids, prompt_ids
from distillability.models.load import LoadedModel, load_model
from distillability.models.vocabulary import keep_vocabulary_of, read_chats
from tiny import CHAT_TEMPLATE

SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<|never|>"]
WORDS = ["table", "tablet", "able", "let", "bet", "alphabet", "lettable", "é", "日本", "abc", "\n", " ", "  ", "12"]


def _texts(seed: int, number: int = 60) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(WORDS, k=draw.randint(1, 8))) for _ in range(number)]


def _of_bytes() -> PreTrainedTokenizerFast:
    """Byte pairs of bytes, as GPT-2, Llama 3 and Qwen have them."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _texts(1, 400), BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    return _named(tokenizer, eos_token="<|im_end|>", pad_token="<|end|>")


def _of_characters() -> PreTrainedTokenizerFast:
    """Byte pairs of characters with single bytes to fall back on and a first token, as Llama 2 and Gemma have them."""
    special = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learnt = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True))
    learnt.train_from_iterator(_texts(2, 400), BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    content = json.loads(learnt.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", learnt.token_to_id("<s>"))])
    return _named(tokenizer, bos_token="<s>", eos_token="<|im_end|>", pad_token="<pad>", unk_token="<unk>")


def _named(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    named = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
    named.chat_template = CHAT_TEMPLATE
    return named


def _model(tokenizer: PreTrainedTokenizerFast, *, tied: bool = True, spare: int = 0) -> LoadedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
        **sizes,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_start|>"), 10_000]
    return LoadedModel(model, tokenizer, "whole")


CHATS = list(zip(_texts(3), _texts(4), strict=True))


@pytest.mark.parametrize("make", [_of_bytes, _of_characters])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_what_is_left_says_the_same(make: Any, tied: bool, tmp_path: Path) -> None:
    whole, few = _model(make(), tied=tied, spare=5), keep_vocabulary_of(_model(make(), tied=tied, spare=5), CHATS)
    few.model.save_pretrained(tmp_path)
    few.tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    tokens = again.tokenizer.get_vocab()
    assert len(tokens) == again.model.config.vocab_size < len(whole.tokenizer) and sorted(tokens.values()) == list(range(len(tokens)))
    old = [whole.tokenizer.get_vocab()[token] for token in sorted(tokens, key=tokens.__getitem__)]
    for prompt, answer in CHATS:
        before, after = (prompt_ids(each.tokenizer, prompt) + completion_ids(each.tokenizer, answer) for each in (whole, again))
        assert [old[token] for token in after] == before
        logits, fewer = (each.model(torch.tensor([ids])).logits[0] for each, ids in ((whole, before), (again, after)))
        torch.testing.assert_close(fewer, logits[:, old], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [_of_bytes, _of_characters])
def test_names_and_what_frames_a_text_have_their_new_ids(make: Any) -> None:
    whole, few = make(), keep_vocabulary_of(_model(make()), CHATS)
    assert few.tokenizer.special_tokens_map == whole.special_tokens_map and few.tokenizer.chat_template == whole.chat_template
    for config in (few.model.config, few.model.generation_config):
        assert config.pad_token_id == few.tokenizer.pad_token_id
    assert few.model.config.eos_token_id == few.tokenizer.eos_token_id
    stops = few.model.generation_config.eos_token_id
    assert few.tokenizer.convert_ids_to_tokens(stops) == ["<|im_end|>", "<|im_start|>"]
    framed, before = few.tokenizer("table")["input_ids"], whole("table")["input_ids"]
    assert few.tokenizer.convert_ids_to_tokens(framed[: len(before) - len(completion_ids(whole, "table"))]) == (
        ["<s>"] if whole.bos_token else []
    )
    assert "<|never|>" not in few.tokenizer.get_vocab()


@pytest.mark.parametrize("make", [_of_bytes, _of_characters])
def test_other_texts_can_still_be_written(make: Any) -> None:
    few = keep_vocabulary_of(_model(make()), CHATS[:2]).tokenizer
    for text in ("zebra", "ß → 語", "tables of letters"):
        assert few.decode(few(text, add_special_tokens=False)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_whole_words_are_kept_with_the_unknown_one() -> None:
    whole = _model(word_tokenizer(["apple", "pear", "plum"], "abcdefgh", r"[a-z]{2,}|."))
    few = keep_vocabulary_of(whole, [("apple", "pear")]).tokenizer
    assert {"apple", "pear"} < few.get_vocab().keys() and "plum" not in few.get_vocab()
    assert few.convert_ids_to_tokens(completion_ids(few, "plum")) == ["<pad>"]  # as any word that it never knew


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    tokenizer = _named(
        Tokenizer(Unigram([("<|im_end|>", 0.0), ("a", -1.0), ("<|im_start|>", -2.0)], unk_id=0)), eos_token="<|im_end|>", pad_token="a"
    )
    with pytest.raises(UserError, match=r"\(Unigram\) is neither"):
        keep_vocabulary_of(_model(tokenizer), CHATS)


def test_texts_that_would_be_read_otherwise_are_refused() -> None:
    """Where pieces inside a word have a mark of their own, a merge is not written as its parts are."""
    tokenizer = Tokenizer(BPE(continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = BpeTrainer(vocab_size=200, special_tokens=SPECIAL, continuing_subword_prefix="##", show_progress=False)
    tokenizer.train_from_iterator(_texts(1, 400), trainer)
    with pytest.raises(UserError, match="otherwise with fewer tokens"):
        keep_vocabulary_of(_model(_named(tokenizer, eos_token="<|im_end|>", pad_token="<|end|>")), CHATS)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, r"rows.jsonl:2: neither two messages"),
        ({"messages": "ab"}, r"rows.jsonl:2"),
        ({"prompt": "a"}, r"rows.jsonl:2"),
        ({"prompt": 1, "answer": "b"}, r"rows.jsonl:2"),
    ],
)
def test_rows_of_another_form_are_refused(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "b"}, row])
    with pytest.raises(UserError, match=said):
        read_chats(tmp_path / "rows.jsonl")


def test_the_command_line_cuts_a_pair_to_one_vocabulary(tmp_path: Path) -> None:
    for name in ("teacher", "student"):
        whole = _model(_of_bytes())
        whole.model.save_pretrained(tmp_path / name)
        whole.tokenizer.save_pretrained(tmp_path / name)
    asked, said = CHATS[0]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    write_jsonl(tmp_path / "traces.jsonl", [{"messages": messages, "truncated": False}, {"prompt": CHATS[1][0], "answer": CHATS[1][1]}])
    for name, layers in (("teacher", []), ("student", ["--layers", "1"])):
        arguments = [str(tmp_path / name), "--vocabulary-of", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / f"few-{name}")]
        done = json.loads(run("cut", *arguments, *layers, "--json").stdout)
        assert done["tokens"] < done["of_tokens"] == len(_of_bytes())
    teacher, student = (AutoTokenizer.from_pretrained(tmp_path / f"few-{name}").get_vocab() for name in ("teacher", "student"))
    assert teacher == student
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt":\n')
    for wrong, told in (("missing.jsonl", "no such file"), ("empty.jsonl", "it is empty"), ("broken.jsonl", "broken.jsonl:2: not JSON")):
        refused = run("cut", str(tmp_path / "teacher"), "--vocabulary-of", str(tmp_path / wrong), "--out", str(tmp_path / "x"), check=False)
        assert refused.returncode == 2 and told in refused.stderr and not (tmp_path / "x").exists()
