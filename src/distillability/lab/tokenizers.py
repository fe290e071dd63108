"""Tokenizers of the lab: characters, byte pairs, and words, each with its own chat template."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

__all__ = ["byte_pair_tokenizer", "character_tokenizer", "word_tokenizer"]

_PAD, _USER, _ASSISTANT, _END = "<pad>", "<user>", "<assistant>", "<end>"
_SPECIAL = [_PAD, _USER, _ASSISTANT, _END]
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<assistant>{{ message.content }}<end>{% else %}<user>{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token a character; characters outside the alphabet have no token and do not survive encoding."""
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate([*_SPECIAL, *alphabet])}, unk_token=_PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _finish(tokenizer)


def byte_pair_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-pair encoding learnt from `texts`, at most `vocabulary` tokens."""
    tokenizer = Tokenizer(BPE(unk_token=_PAD))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator(
        texts, BpeTrainer(vocab_size=vocabulary, special_tokens=_SPECIAL, show_progress=False, max_token_length=4)
    )
    return _finish(tokenizer)


def word_tokenizer(words: Iterable[str], alphabet: str, pattern: str) -> PreTrainedTokenizerFast:
    """One token a word, and single characters for the rest.

    Args:
        pattern: what is a word and what is not, as a regular expression whose last alternative is any character.
    """
    vocabulary = [*_SPECIAL, *alphabet, *words]
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token=_PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _finish(tokenizer)


def _finish(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        additional_special_tokens=[_USER, _ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    fast.chat_template = _TEMPLATE
    return fast
