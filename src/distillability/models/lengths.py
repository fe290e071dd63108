"""How many tokens prompts and completions are under each model's own tokenizer, as far as its files tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["BYTES_A_TOKEN", "Lengths", "prompt_tokens", "rendered_chat"]

BYTES_A_TOKEN = 4.0  # where there is no tokenizer to ask
TEMPLATE_TOKENS = 16  # where there is no chat template to render


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of one model: of a rendered prompt, of a completion."""

    prompt: float
    completion: float

    @property
    def whole(self) -> float:
        return self.prompt + self.completion


def prompt_tokens(folder: Path, chat_template: str | None, texts: Sequence[str]) -> tuple[float, bool]:
    """Mean tokens of prompts as a model reads them, and whether its own tokenizer and chat template said so.

    Args:
        folder: of the tokenizer.
    """
    rendered = None if chat_template is None else _rendered(chat_template, texts)
    shown = rendered or texts
    if not (folder / "tokenizer.json").is_file():
        tokens = sum(len(text.encode()) for text in shown) / BYTES_A_TOKEN / len(shown)
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in shown) / len(shown)
    counted = rendered is not None and (folder / "tokenizer.json").is_file()
    return tokens + (0 if rendered else TEMPLATE_TOKENS), counted


def _rendered(source: str, texts: Sequence[str]) -> list[str] | None:
    """The prompts inside a chat template; None where only transformers can render it."""
    found = [rendered_chat(source, [{"role": "user", "content": text}], add_generation_prompt=True) for text in texts]
    return None if None in found else [text for text in found if text is not None]


def rendered_chat(source: str, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str | None:
    """A conversation inside a chat template as transformers renders it, special tokens left empty; None where only that can."""
    from jinja2 import TemplateError

    try:
        return _compiled(source).render(messages=messages, add_generation_prompt=add_generation_prompt, bos_token="", eos_token="")
    except (TemplateError, TypeError, ValueError):
        return None


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
