"""Where in a text each token begins, so that positions of two tokenizers can be paired by what was read before them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from distillability.errors import UserError
from distillability.models.chat import completion_ids, end_of_turn_id

__all__ = ["UNALIGNED", "in_other_tokens", "token_starts"]

UNALIGNED = -1


def token_starts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[int]:
    """In characters of `text`, where each of `ids` begins, an end of sequence at the end of them where the text ends.

    UNALIGNED where a token begins inside a character, and from where on the ids no longer spell `text`.

    Raises:
        UserError: the tokenizer is written in Python, and cannot decode token by token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError.single(
            str(tokenizer.name_or_path), "its tokenizer has no fast form, which tells where tokens begin", "use seqkd for this pair"
        )
    stream, place, spelt, starts = DecodeStream(skip_special_tokens=False), 0, True, [0]
    for token in ids[:-1]:
        try:
            piece = stream.step(backend, token)  # None: not yet a whole character
        except Exception:  # the library raises this bare class at bytes that are no text
            return starts + [UNALIGNED] * (len(ids) - len(starts))
        spelt = spelt and (piece is None or text.startswith(piece, place))
        place += len(piece or "")
        starts.append(place if spelt and piece is not None else UNALIGNED)
    return starts[: len(ids)]


def in_other_tokens(
    tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, completion: Sequence[int], text: str
) -> tuple[list[int], list[int]]:
    """`text` in the tokens of another model, and for each token of its completion here which of those begins in the same place.

    There both models have read the same and predict what comes next; UNALIGNED where none begins. An end of turn becomes the other's.
    """
    ended = completion[-1:] == [end_of_turn_id(tokenizer)]
    theirs = completion_ids(other, text) + [end_of_turn_id(other)] * ended
    place_of = {start: place for place, start in reversed([*enumerate(token_starts(other, theirs, text))])}
    starts = token_starts(tokenizer, completion, text)
    return theirs, [UNALIGNED if start == UNALIGNED else place_of.get(start, UNALIGNED) for start in starts]
