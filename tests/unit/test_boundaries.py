"""Where tokens begin, whatever the tokenizer is made of, and which positions of two tokenizers are one place."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distillability.errors import UserError
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.boundaries import UNALIGNED, in_other_tokens, token_starts

BYTES = pre_tokenizers.ByteLevel.alphabet()


def _fast(backend: Tokenizer) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", clean_up_tokenization_spaces=False)


def byte_level() -> PreTrainedTokenizerBase:
    """Pairs of bytes, a blank joined to what follows it."""
    pieces = ["<end>", *sorted(BYTES), "Ġt", "Ġth", "he"]
    backend = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, [("Ġ", "t"), ("Ġt", "h"), ("h", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend)


def with_fallback() -> PreTrainedTokenizerBase:
    """Pieces of characters that begin with a mark for a blank, as SentencePiece has them; bytes of what it does not know."""
    pieces = ["<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "▁t", "▁th", "he"]
    merges = [("▁", "t"), ("▁t", "h"), ("h", "e")]
    backend = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, merges, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _fast(backend)


MADE = {"byte_level": byte_level, "with_fallback": with_fallback}


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("name", MADE)
def test_starts_are_those_of_the_text_decoded_so_far(name: str) -> None:
    tokenizer = MADE[name]()

    @given(st.text(alphabet="the é日🙂\n", max_size=12))
    @settings(max_examples=60, deadline=None)
    def check(text: str) -> None:
        ids = _ids(tokenizer, text)
        expected = []
        for place in range(len(ids)):
            before = tokenizer.decode(ids[:place], clean_up_tokenization_spaces=False)
            expected.append(len(before) if text.startswith(before) and "\ufffd" not in before else UNALIGNED)
        assert token_starts(tokenizer, ids, text) == expected

    check()


@pytest.mark.parametrize("name", MADE)
def test_ids_that_spell_no_text_begin_nowhere(name: str) -> None:
    tokenizer = MADE[name]()
    generator = random.Random(0)
    for _ in range(300):
        ids = [generator.randrange(1, len(tokenizer)) for _ in range(8)]
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        starts = token_starts(tokenizer, ids, text)
        assert len(starts) == len(ids) and starts[0] == 0
        assert all(start == UNALIGNED or 0 <= start <= len(text) for start in starts)


def test_a_token_within_a_character_begins_nowhere() -> None:
    tokenizer = byte_level()
    ids = _ids(tokenizer, "t é the")
    assert tokenizer.convert_ids_to_tokens(ids) == ["t", "Ġ", "Ã", "©", "Ġth", "e", "<end>"]
    assert token_starts(tokenizer, ids, "t é the") == [0, 1, 2, UNALIGNED, 3, 6, 7]
    assert token_starts(tokenizer, ids[:-2], "t é the") == [0, 1, 2, UNALIGNED, 3]  # a text that was cut has no end


def test_what_does_not_spell_the_text_begins_nowhere_from_there_on() -> None:
    tokenizer = byte_level()
    assert token_starts(tokenizer, _ids(tokenizer, "tea"), "tee") == [0, 1, 2, UNALIGNED]
    assert token_starts(tokenizer, [], "t") == []


def test_positions_of_two_tokenizers_are_paired_by_the_text_before_them() -> None:
    pairs, characters = byte_level(), character_tokenizer("the é")
    theirs, places = in_other_tokens(pairs, characters, _ids(pairs, "t é the"), "t é the")
    assert theirs == _ids(characters, "t é the") and places == [0, 1, 2, UNALIGNED, 3, 6, 7]
    theirs, places = in_other_tokens(characters, pairs, _ids(characters, "t é the"), "t é the")
    assert theirs == _ids(pairs, "t é the") and places == [0, 1, 2, 4, UNALIGNED, UNALIGNED, 5, 6]
    assert in_other_tokens(pairs, pairs, _ids(pairs, "the")[:-1], "the") == (_ids(pairs, "the")[:-1], [0, 1])


def test_a_text_that_the_student_cannot_spell_is_paired_as_far_as_it_can() -> None:
    pairs, characters = byte_level(), character_tokenizer("the")
    completion = _ids(characters, "the")
    assert in_other_tokens(characters, pairs, completion, "tea")[1] == [0, 1, UNALIGNED, UNALIGNED]


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    class Slow:
        name_or_path = "slow"

    with pytest.raises(UserError, match="use seqkd"):
        token_starts(Slow(), [1, 2], "ab")  # type: ignore[arg-type]
