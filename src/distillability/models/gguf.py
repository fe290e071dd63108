"""What a GGUF file says about its model, read without torch and without a weight."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from distillability.errors import UserError

__all__ = ["GgufHeader", "is_gguf", "read_header", "require_convertible"]

# `tokenizer.ggml.pre` of the vocabularies whose merges were learnt with every digit apart, then split as GPT-2 splits.
_SINGLE_DIGITS = frozenset({"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"})

_KEPT_ARRAYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")  # of the others only the length is kept
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SIZES = {  # transformers' names of them
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}
_UNUSED_TOKEN = 5


def is_gguf(path: str | Path) -> bool:
    """Whether a path names a GGUF file, there or not."""
    return str(path).lower().endswith(".gguf") and not Path(path).is_dir()


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a GGUF file and the names of its tensors."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` would say of it, as far as checks and plans go."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        sizes = {name: self.metadata.get(f"{self.architecture}.{key}") for name, key in _SIZES.items()}
        sizes["vocab_size"] = sizes["vocab_size"] or (None if tokens is None else len(tokens))
        return {"model_type": self.architecture, **sizes, "tie_word_embeddings": "output.weight" not in self.tensors}

    @property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id without what fills up the embedding; None where tokens are spelled otherwise than in `tokenizer.json`."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if tokens is None or self.metadata.get("tokenizer.ggml.model") != "gpt2":
            return None
        unused = {index for index, kind in enumerate(self.metadata.get("tokenizer.ggml.token_type", ())) if kind == _UNUSED_TOKEN}
        return {token: index for index, token in enumerate(tokens) if index not in unused}

    @property
    def has_single_digits(self) -> bool:
        """Whether its tokenizer keeps every digit apart."""
        return self.metadata.get("tokenizer.ggml.pre") in _SINGLE_DIGITS

    @property
    def position_scaling(self) -> str | None:
        """What stretches its position embeddings, which transformers leaves out when it reads the file; None where nothing does."""
        if self.architecture == "gpt-oss":
            return None
        kind = self.metadata.get(f"{self.architecture}.rope.scaling.type", "none")
        factors = [name for name in self.tensors if name.startswith(("rope_freqs", "rope_factors"))]
        return f"rope.scaling.type = {kind}" if kind != "none" else next(iter(factors), None)


def read_header(path: Path) -> GgufHeader:
    """The header of one file.

    Raises:
        UserError: it is not a GGUF file, or a damaged one.
    """
    try:
        size = os.path.getsize(path)
        with path.open("rb") as file:
            return _Reader(file, size).header()
    except _NotGguf as error:
        raise UserError.single(str(path), str(error), "give a GGUF file of version 2 or 3, or a Hugging Face folder") from None
    except FileNotFoundError:
        raise UserError.single(str(path), "there is no such file", "give the path of a GGUF file") from None
    except OSError as error:
        raise UserError.single(str(path), f"cannot be read ({error.strerror})", "check the path and its permissions") from None
    except (EOFError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise UserError.single(str(path), f"a damaged GGUF file ({error})", "download or convert it again") from None


def require_convertible(path: Path, header: GgufHeader) -> None:
    """Raise what is known before the weights are read.

    Raises:
        UserError: transformers reads no causal language model from this architecture, or would read it wrongly.
    """
    fix = "give the model as a Hugging Face folder"
    known = _architectures()
    if known is not None and _bare(header.architecture) not in {_bare(name) for name in known}:
        what = f"no causal language model is read from a GGUF file of the architecture {header.architecture!r}"
        raise UserError.single(str(path), what, f"{fix}; GGUF files are read of {', '.join(sorted(known))}")
    if header.position_scaling is not None:
        what = f"its position embeddings are stretched ({header.position_scaling}), which transformers leaves out when it reads the file"
        raise UserError.single(str(path), what, fix)


def _architectures() -> set[str] | None:
    """Those that the installed transformers reads, of causal language models; None where that cannot be known."""
    try:
        from transformers.integrations.ggml import (
            GGUF_CONFIG_MAPPING,  # no torch behind these two
        )
        from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    except ImportError:
        return None
    return {*GGUF_CONFIG_MAPPING, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer", "t5", "umt5"}


def _bare(architecture: str) -> str:
    """GGUF and transformers differ in dashes and underscores."""
    return architecture.replace("-", "").replace("_", "")


class _NotGguf(Exception):
    pass


@dataclass
class _Reader:
    file: BinaryIO
    size: int

    def header(self) -> GgufHeader:
        if self.file.read(4) != b"GGUF":
            raise _NotGguf("not a GGUF file: it does not begin with GGUF")
        version = self._number("I")
        if version not in (2, 3):
            raise _NotGguf(f"a GGUF file of version {version}")
        n_tensors, n_entries = self._number("Q"), self._number("Q")
        metadata = {}
        for _ in range(n_entries):
            key = self._string()
            metadata[key] = self._value(self._number("I"), keep=key in _KEPT_ARRAYS)
        return GgufHeader(metadata, tuple(self._tensors(n_tensors)))

    def _tensors(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield self._string()
            self._bytes(8 * self._number("I") + 12)  # dimensions, type and offset

    def _value(self, kind: int, *, keep: bool) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(_NUMBERS[kind])
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            strings = [self._bytes(self._number("Q")) for _ in range(count)]
            return [text.decode("utf-8") for text in strings] if keep else count
        form = _NUMBERS[inner]
        data = self._bytes(count * struct.calcsize(f"<{form}"))
        return list(struct.unpack(f"<{count}{form}", data)) if keep else count

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))[0]

    def _string(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8")

    def _bytes(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.size else b""
        if len(data) < count:
            raise EOFError("it ends in the middle of its header")
        return data
