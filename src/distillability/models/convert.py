"""From a GGUF file to an ordinary Hugging Face folder, so that whatever loads a model by its name can: TRL its reference, too.

Weights are unpacked to float32, which holds every quantised value exactly; the folder is larger than the file by as much.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distillability.errors import UserError
from distillability.files import new_folder, write_json
from distillability.models.gguf import (
    GgufHeader,
    is_gguf,
    read_header,
    require_convertible,
)
from distillability.models.locate import locate

__all__ = ["Converted", "as_folder", "convert", "converted_folder"]

_log = logging.getLogger(__name__)
_FORM = 1  # of the folders written here; a new one makes old conversions be done again


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: where, how many weights, and what of the tokenizer had to be mended."""

    source: Path
    folder: Path
    architecture: str
    n_weights: int
    mended: tuple[str, ...]

    def __str__(self) -> str:
        mended = f"; mended in the tokenizer: {', '.join(self.mended)}" if self.mended else ""
        weights = f"{self.n_weights / 1e6:.1f} M weights in float32"
        return f"converted {self.source} ({self.architecture}, {weights}{mended}) to {self.folder}"


def as_folder(reference: str, tell: Callable[[str], None] = _log.warning) -> str:
    """Where transformers can load `reference` from: a local folder or a hub id. A GGUF file is converted first, once.

    Args:
        tell: is given one line where something was converted.

    Raises:
        UserError: there is no such model, or it cannot be converted.
    """
    path = locate(reference)
    if not is_gguf(path):
        return path
    folder = converted_folder(Path(path))
    if not folder.is_dir():
        tell(str(convert(Path(path), folder)))
    return str(folder)


def converted_folder(path: Path) -> Path:
    """Where the conversion of a file is kept: in the user's cache, by the file's place, size and time, so that a changed file is new."""
    found = path.resolve()
    digest = hashlib.sha256(repr((_FORM, str(found), found.stat().st_size, found.stat().st_mtime_ns)).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "distillability" / "gguf" / f"{path.stem}-{digest[:12]}"


def convert(path: Path, folder: Path) -> Converted:
    """Write a GGUF file as a Hugging Face folder: safetensors, configuration, tokenizer and `origin.json`; whole or not at all.

    A folder that another process has written meanwhile is kept.

    Raises:
        UserError: it is not a GGUF file of a causal language model that transformers can read.
    """
    header = read_header(path)
    require_convertible(path, header)
    if find_spec("gguf") is None:
        raise UserError.single(str(path), "reading it needs the package gguf", "pip install 'distillability[train]'")
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            model = _read_model(path)
            tokenizer, mended = _read_tokenizer(path, header)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError.single(
            str(path), f"cannot be converted: {what}", "download the file again, or give the model as a Hugging Face folder"
        ) from error
    done = Converted(path, folder, header.architecture, sum(weight.numel() for weight in model.parameters()), tuple(mended))
    with new_folder(folder, replace=False) as temporary:
        with redirect_stderr(io.StringIO()):
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "origin.json", {"gguf": path.name, "bytes": path.stat().st_size, "mended": mended})
    return done


def _read_model(path: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.config.architectures = [type(model).__name__]
    vars(model.config).pop("_model_name_or_path", None)  # the file's own title, which is no path
    return model


def _read_tokenizer(path: Path, header: GgufHeader) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer, and what was mended in it."""
    tokenizer = AutoTokenizer.from_pretrained(
        path.parent,
        gguf_file=path.name,
        padding_side="left",
        model_max_length=header.config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    if not header.has_single_digits:
        return tokenizer, []
    # transformers reads the merges but not that they were learnt with digits apart: 12 becomes one token the model has hardly ever seen.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    return tokenizer, ["digits stand alone"]
