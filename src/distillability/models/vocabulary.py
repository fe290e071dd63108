"""A model and its tokenizer with the part of their vocabulary that some texts need.

A vocabulary of 50,000 to 260,000 tokens, of which a task uses hundreds, is most of a small student's weights and most of the work of
comparing logits. What is left reads these texts as before, token by token, and gives the same logits for the tokens that are left; its
probabilities are those of the whole model under the condition that none of the others comes next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distillability.errors import Problem, UserError
from distillability.models.chat import completion_ids, prompt_ids
from distillability.models.load import LoadedModel
from distillability.tasks.rows import Row, read_rows

__all__ = ["Chat", "keep_vocabulary_of", "read_chats"]

_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
Chat = tuple[str, str]


def read_chats(file: Path) -> list[Chat]:
    """Questions and answers of a file: `messages` of a user and an assistant as in a run's traces, or columns `prompt` and `answer`.

    Raises:
        UserError: there is no such file, it is of no known form or holds nothing, or a row is of another form: the first of them.
    """
    if not file.is_file():
        raise UserError.single(str(file), "there is no such file", "name a JSONL file, as a run's traces.jsonl")
    chats = [_chat(row) for row in read_rows(str(file))]
    if not chats:
        raise UserError.single(str(file), "it is empty", "give texts as the model is to read and write them")
    return chats


def _chat(row: Row | Problem) -> Chat:
    if isinstance(row, Problem):
        raise UserError([row])
    values, texts = row.values, list[Any]()
    with suppress(LookupError, TypeError):
        texts = [message["content"] for message in values["messages"]] if "messages" in values else [values["prompt"], values["answer"]]
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        fix = 'write {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]} or {"prompt": …, "answer": …}'
        raise UserError.single(row.where, "neither two messages nor prompt and answer", fix)
    return texts[0], texts[1]


def keep_vocabulary_of(loaded: LoadedModel, chats: Sequence[Chat]) -> LoadedModel:
    """The model itself, changed to fewer tokens, and a tokenizer of these.

    Kept are the tokens of the chats as the model's own template renders them, all that these are merged from, single bytes, so that any
    text can still be written, if longer, and what the model's configuration names.

    Raises:
        UserError: the tokenizer is of a kind that cannot be made smaller this way.
    """
    old = loaded.tokenizer
    encoded = [_encoded(old, chat) for chat in chats]
    content = json.loads(_backend(loaded).to_str())
    framing = [token["ids"] for token in _framing(content["post_processor"])]
    needed = {token for ids in (*encoded, *framing) for token in ids} | _named(loaded)
    tokens = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    kept = sorted(tokens[token] for token in _closed(content, {token for token in tokens if tokens[token] in needed}))
    new = _tokenizer(old, content, {token: place for place, token in enumerate(kept)})
    for chat, ids in zip(chats, encoded, strict=True):
        if [kept[token] for token in _encoded(new, chat)] != ids:
            raise UserError.single(loaded.reference, f"its tokenizer reads {chat} otherwise with fewer tokens", "keep its vocabulary")
    return LoadedModel(_rows(loaded.model, kept), new, loaded.reference, loaded.trust_remote_code)


def _encoded(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """Ids of the question as the template opens the assistant's turn, and of the answer."""
    return prompt_ids(tokenizer, chat[0]) + completion_ids(tokenizer, chat[1])


def _named(loaded: LoadedModel) -> set[int]:
    """Ids that the tokenizer, the configuration or that of generation calls by a name."""
    configs = (loaded.tokenizer, loaded.model.config.get_text_config(), loaded.model.generation_config)
    found: list[Any] = [getattr(config, f"{name}_token_id", None) for config in configs for name in _NAMED]
    return {token for ids in found for token in (ids if isinstance(ids, list) else [ids])}


def _backend(loaded: LoadedModel) -> Tokenizer:
    backend = getattr(loaded.tokenizer, "backend_tokenizer", None)
    kind = type(backend.model).__name__ if backend else "none of the library tokenizers"
    if kind not in ("BPE", "WordLevel"):
        what = f"its tokenizer ({kind}) is neither of byte pairs nor of whole words"
        raise UserError.single(loaded.reference, what, "keep its vocabulary")
    assert isinstance(backend, Tokenizer)
    return backend


def _closed(content: dict[str, Any], needed: set[str]) -> set[str]:
    """Tokens with all they are merged from, and those that single bytes are written with.

    So every merge that ever takes place in the texts is kept. One that is left out took place in none of them, and without it the others
    follow each other as before.
    """
    model = content["model"]
    if model["type"] == "WordLevel":
        return needed | {model["unk_token"]} & model["vocab"].keys()
    kept = needed | {token for token in (*ByteLevel.alphabet(), *(f"<0x{byte:02X}>" for byte in range(256))) if token in model["vocab"]}
    parts: dict[str, list[list[str]]] = {}
    for merge in map(_parts, model["merges"]):
        parts.setdefault("".join(merge), []).append(merge)
    waiting = list(kept)
    while waiting:
        for part in (part for merge in parts.get(waiting.pop(), ()) for part in merge):
            if part not in kept:
                kept.add(part)
                waiting.append(part)
    return kept


def _parts(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _tokenizer(old: PreTrainedTokenizerBase, content: dict[str, Any], place: dict[int, int]) -> PreTrainedTokenizerBase:
    """The tokenizer of some tokens.

    Args:
        place: the new id of each old one that is kept.
    """
    model = content["model"]
    model["vocab"] = {token: place[index] for token, index in model["vocab"].items() if index in place}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if {*_parts(merge), "".join(_parts(merge))} <= model["vocab"].keys()]
    content["added_tokens"] = [token | {"id": place[token["id"]]} for token in content["added_tokens"] if token["id"] in place]
    for token in _framing(content["post_processor"]):
        token["ids"] = [place[index] for index in token["ids"]]
    special = {f"{name}_token": getattr(old, f"{name}_token") for name in _NAMED if getattr(old, f"{name}_token", None) is not None}
    new = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        padding_side=old.padding_side,
        clean_up_tokenization_spaces=False,
        model_max_length=old.model_max_length,
        **special,
    )
    new.chat_template = old.chat_template
    return new


def _framing(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What the tokenizer puts around a text, such as a first token, wherever its description keeps their ids."""
    if processor is None:
        return []
    own = list(processor.get("special_tokens", {}).values()) if processor["type"] == "TemplateProcessing" else []
    return own + [token for part in processor.get("processors", ()) for token in _framing(part)]


def _rows(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """The rows of these tokens in the embedding and the head, in this order; ids that configurations name become the new ones."""
    place = {token: row for row, token in enumerate(kept)}
    matrices = {id(module.weight): module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None}
    for module in matrices.values():
        for values in (module.weight, getattr(module, "bias", None)):
            if values is not None:
                values.data[: len(kept)] = values.data[list(kept)]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    for config in (model.config.get_text_config(), model.generation_config):
        for key in (f"{name}_token_id" for name in _NAMED):
            found = getattr(config, key, None)
            if found is not None:
                new = [place[token] for token in (found if isinstance(found, list) else [found]) if token in place]
                setattr(config, key, new if isinstance(found, list) else next(iter(new), None))
    return model
