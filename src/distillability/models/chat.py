"""Rendering a prompt and a text for one model: its own chat template, its own tokenizer, its own end of turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from distillability.errors import UserError
from distillability.models.facts import NO_TEMPLATE_MEND, TURN

__all__ = [
    "PLAIN_TEMPLATE",
    "TemplateVariables",
    "completion_ids",
    "end_of_turn_id",
    "prompt_ids",
    "rendered_once",
    "round_trip_ids",
    "round_trips",
    "with_end_of_turn",
    "with_template",
]

TemplateVariables = Mapping[str, bool | int | float | str]

# Questions and answers by their names, each below its own line, for models that no chat has taught a template.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ 'Question' if message['role'] == 'user' else 'Answer' }}:\n{{ message['content'] }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Answer:\n{% endif %}"
)


def with_template(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None, variables: TemplateVariables | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer with a chat template where it has none, and some variables of the template set; saved with a model both stay.

    Args:
        chat_template: `plain` for `PLAIN_TEMPLATE`, or the path of a Jinja file; None where only a tokenizer's own will do.
        variables: as `enable_thinking`; set at the head of the template, so that whoever serves the saved model asks as it was trained.

    Raises:
        UserError: there is no such file.
    """
    if tokenizer.chat_template is None and chat_template is not None:
        tokenizer.chat_template = PLAIN_TEMPLATE if chat_template == "plain" else _read_template(chat_template)
    head = "".join(f"{{%- set {name} = {json.dumps(value)} -%}}" for name, value in (variables or {}).items())
    if isinstance(tokenizer.chat_template, str) and not tokenizer.chat_template.startswith(head):
        tokenizer.chat_template = head + tokenizer.chat_template
    return tokenizer


def with_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, its end of sequence being the token that its template ends an assistant's turn with; as it is where there is none.

    Gemma's chat models end theirs with `<end_of_turn>`; what their tokenizer calls the end of a sequence they never say.
    """
    rest = _after_answer(tokenizer)
    special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if rest.strip() else []
    if ids and ids[0] in special and ids[0] != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ids[0])
    return tokenizer


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template puts behind an assistant's text; nothing where it cannot be rendered."""
    if tokenizer.chat_template is None:
        return ""
    try:
        text = tokenizer.apply_chat_template(TURN, tokenize=False)
    except (TemplateError, TypeError, ValueError):  # as of one that wants other messages
        return ""
    return str(text).rpartition(TURN[-1]["content"])[2]


def _read_template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError.single(f"chat_template = {path}", f"cannot be read ({error.strerror})", NO_TEMPLATE_MEND) from error


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, demonstrations: Sequence[tuple[str, str]] = ()) -> list[int]:
    """Token ids of `prompt` as this model's chat template opens the assistant's turn.

    Args:
        demonstrations: (prompt, answer) pairs that go before it as earlier turns.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise UserError.single(
            str(tokenizer.name_or_path),
            "the tokenizer has no chat template",
            NO_TEMPLATE_MEND,
        )
    messages = [
        {"role": role, "content": content}
        for question, answer in demonstrations
        for role, content in (("user", question), ("assistant", answer))
    ]
    messages.append({"role": "user", "content": prompt})
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def rendered_once(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], demonstrations: Sequence[tuple[str, str]] = ()
) -> list[list[int]]:
    """`prompt_ids` of each prompt; one that comes several times is rendered once, since a template costs more than all else here."""
    known = {prompt: prompt_ids(tokenizer, prompt, demonstrations) for prompt in dict.fromkeys(prompts)}
    return [known[prompt] for prompt in prompts]


def completion_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an assistant's text, without the end of turn."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends the assistant's turn.

    Raises:
        UserError: the tokenizer names no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError.single(
            str(tokenizer.name_or_path), "the tokenizer has no end-of-sequence token", "set tokenizer.eos_token and save it"
        )
    return int(tokenizer.eos_token_id)


def round_trips(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether encoding and decoding gives `text` back, so that this model scores the text itself and not a neighbour of it."""
    return round_trip_ids(tokenizer, text) is not None


def round_trip_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
    """`completion_ids` of a text that survives encoding; None of one that does not."""
    ids = completion_ids(tokenizer, text)
    return ids if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text else None
