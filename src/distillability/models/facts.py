"""What a model's small files say about it, read without torch and before any weight is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from distillability.errors import UserError
from distillability.models.gguf import (
    GgufHeader,
    is_gguf,
    read_header,
    require_convertible,
)
from distillability.models.lengths import rendered_chat
from distillability.models.locate import adapted_model, has_tokenizer, locate

__all__ = ["NO_TEMPLATE_MEND", "TURN", "ModelFacts", "read_facts"]

NO_TEMPLATE_MEND = (
    'use a chat model; for a base model say chat_template = "plain" (Question: … Answer: …) or a Jinja file at the top of the recipe; '
    "or set tokenizer.chat_template and save the tokenizer"
)

TURN = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]  # what follows the answer ends a turn
_SMALL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"]
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Heads of models that read a whole text at once, or that score it instead of continuing it.
_NOT_CAUSAL = re.compile(
    r"For(MaskedLM|PreTraining|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|NextSentencePrediction)$|Encoder"
)
_ENCODERS = frozenset(
    {"albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "eurobert", "modernbert", "mpnet", "roberta", "xlm-roberta"}
)


@dataclass(frozen=True)
class ModelFacts:
    """A model as its configuration and tokenizer files describe it.

    Attributes:
        reference: what the user called the model.
        folder: where its files are; the file itself where it is a GGUF.
        config: `config.json`.
        is_local: all its files are here; of a hub model only the small ones are.
    """

    reference: str
    folder: Path
    config: dict[str, Any]
    is_local: bool = True

    @property
    def _text_config(self) -> dict[str, Any]:
        inner = self.config.get("text_config")  # models of several kinds of input keep the language model's own settings apart
        return inner if isinstance(inner, dict) else self.config

    @property
    def is_part(self) -> bool:
        """Whether the language model is one of several parts, as in models that also see."""
        return self._text_config is not self.config

    @property
    def is_causal(self) -> bool:
        """Whether it continues texts; where the files do not say, loading it will."""
        if self.config.get("is_encoder_decoder"):
            return False
        architectures = self.config.get("architectures") or []
        if any(_NOT_CAUSAL.search(name) for name in architectures):
            return False
        is_decoder = self.config.get("is_decoder", False) or any(re.search("CausalLM|LMHead", name) for name in architectures)
        return self.config.get("model_type") not in _ENCODERS or is_decoder

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens; None where the configuration sets no limit."""
        limit = self._text_config.get("max_position_embeddings")
        return limit if isinstance(limit, int) else None

    @property
    def output_width(self) -> int | None:
        """Number of logits at a position; None where the configuration does not say."""
        width = self._text_config.get("vocab_size")
        return width if isinstance(width, int) else None

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files are."""
        return self.folder

    @property
    def layers_folder(self) -> Path:
        """Where the weights are whose layers an adapter can change."""
        return self.folder

    @property
    def has_tokenizer(self) -> bool:
        return has_tokenizer(self.tokenizer_folder)

    @property
    def has_chat_template(self) -> bool:
        if any(
            (self.tokenizer_folder / name).exists() for name in ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
        ):
            return True
        return bool(_read_object(self.tokenizer_folder / "tokenizer_config.json", self.reference).get("chat_template"))

    @cached_property
    def chat_template(self) -> str | None:
        """Its text; None where there is none, or several."""
        file = self.tokenizer_folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = _read_object(self.tokenizer_folder / "tokenizer_config.json", self.reference).get("chat_template")
        return found if isinstance(found, str) else None

    def end_of_turn(self, chat_template: str | None = None) -> str | None:
        """The token that an assistant's turn ends with, as `models.chat.with_end_of_turn` finds it; None where the files do not say.

        Args:
            chat_template: the text of one for a model that has none.
        """
        named = _read_object(self.tokenizer_folder / "tokenizer_config.json", self.reference).get("eos_token")
        end = named.get("content") if isinstance(named, dict) else named
        added = _read_object(self.tokenizer_folder / "tokenizer.json", self.reference).get("added_tokens") or []
        rest = _after_answer(self.chat_template or chat_template or "")
        special = [token["content"] for token in added if token.get("special") and rest.startswith(token["content"])]
        return max(special, key=len, default=end)

    @property
    def has_safetensors(self) -> bool:
        return any(self.folder.glob("*.safetensors"))

    @property
    def pickled_weights(self) -> list[str]:
        """Names of weight files that can run code when loaded."""
        return sorted(path.name for pattern in _PICKLED for path in self.folder.glob(pattern) if path.name != "training_args.bin")

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id, added tokens included; None where there is no `tokenizer.json` to read it from."""
        content = _read_object(self.tokenizer_folder / "tokenizer.json", self.reference)
        body = content.get("model")
        model = body.get("vocab") if isinstance(body, dict) else None
        if not model:
            return None
        pairs = model.items() if isinstance(model, dict) else ((token, index) for index, (token, _) in enumerate(model))
        return {**dict(pairs), **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}


@dataclass(frozen=True)
class _GgufFacts(ModelFacts):
    """The same of a GGUF file, from its header."""

    header: GgufHeader = field(kw_only=True)

    @property
    def has_tokenizer(self) -> bool:
        return "tokenizer.ggml.model" in self.header.metadata

    @property
    def has_chat_template(self) -> bool:
        return "tokenizer.chat_template" in self.header.metadata

    @cached_property
    def chat_template(self) -> str | None:
        found = self.header.metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    def end_of_turn(self, chat_template: str | None = None) -> str | None:
        return None  # known once it is converted

    @property
    def has_safetensors(self) -> bool:
        return True  # not of the file, but of what it is converted to before anything loads it

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        return self.header.vocabulary


@dataclass(frozen=True)
class _AdapterFacts(ModelFacts):
    """The same of an adapter's folder: the model that it changes, and what was saved with the adapter."""

    base: ModelFacts = field(kw_only=True)

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder if has_tokenizer(self.folder) else self.base.tokenizer_folder

    @property
    def layers_folder(self) -> Path:
        return self.base.layers_folder

    @property
    def has_safetensors(self) -> bool:
        return super().has_safetensors and (self.base.has_safetensors or not self.base.is_local)

    @property
    def pickled_weights(self) -> list[str]:
        return super().pickled_weights or self.base.pickled_weights


def read_facts(reference: str) -> ModelFacts:
    """The facts of one model; of a hub model only the small files are fetched, of a GGUF file only the header is read. An adapter's
    folder is the model that it changes.

    Raises:
        UserError: there is no such model, or it is not a model folder, or a GGUF file that cannot be converted.
    """
    path = Path(locate(reference))
    if is_gguf(path):
        header = read_header(path)
        require_convertible(path, header)
        return _GgufFacts(reference, path, header.config, header=header)
    is_local = path.exists()
    if not is_local:
        path = _fetch(reference)
    if path.is_file():
        raise UserError.single(
            reference,
            "a file, not a model folder",
            "give a .gguf file, or the folder with config.json, the tokenizer and *.safetensors",
        )
    base = adapted_model(path)
    if base is not None:
        found = read_facts(base)
        return _AdapterFacts(reference, path, found.config, base=found)
    if not (path / "config.json").is_file():
        raise UserError.single(reference, "not a model: the folder has no config.json", "give a folder written by save_pretrained")
    return ModelFacts(reference, path, _read_object(path / "config.json", reference), is_local)


def _after_answer(template: str) -> str:
    """What a template puts behind an assistant's text; nothing where only transformers can render it."""
    text = rendered_chat(template, TURN, add_generation_prompt=False) or ""
    return text.rpartition(TURN[-1]["content"])[2].lstrip()


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import (
        snapshot_download,  # slow to import, and needed for hub models only
    )
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_SMALL_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError.single(
            hub_id,
            f"neither a folder here nor a model that the hub gives us ({first})",
            "give the path of a folder, or download it while online",
        ) from None


def _read_object(path: Path, reference: str) -> dict[str, Any]:
    """A JSON object; empty where the file is missing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError.single(reference, f"{path.name} is not readable as JSON ({error})", "save the model again") from None
    if not isinstance(value, dict):
        raise UserError.single(reference, f"{path.name} is not a JSON object", "save the model again")
    return value
