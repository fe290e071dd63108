"""From a GGUF file to an ordinary Hugging Face folder, so that whatever loads a model by its name can: TRL its reference, too.

Weights are unpacked to float32, which holds every quantised value exactly; the folder is larger than the file by as much.

Two things are fixed. Where a vocabulary was learnt with every digit apart, transformers does not split so, and a run of spaces or line
ends before a digit becomes other tokens than in training. And a tenth of a quantised file's weights lie exactly midway between two bfloat16
numbers: under autocast the first optimiser step, however small, tips all of them at once to the side of its sign (seen: 0.1 nats a token
after one step at a rate of 1e-6, in float32 1e-4). They are spread between the middle and the number they round to: no change in bfloat16,
and 1e-6 nats a token in float32.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
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
_CHANCE_TIES = 1e-3  # share of float32 weights that lie midway between two bfloat16 numbers by chance: 1 in 65,536
_FORM = 1  # of the folders written here; a new one makes old conversions be done again


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: where, how many weights, and what had to be fixed."""

    source: Path
    folder: Path
    architecture: str
    n_weights: int
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f"; fixed: {', '.join(self.fixed)}" if self.fixed else ""
        weights = f"{self.n_weights / 1e6:.1f} M weights in float32"
        return f"converted {self.source} ({self.architecture}, {weights}{fixed}) to {self.folder}"


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
            tokenizer = _read_tokenizer(path, header)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError.single(
            str(path), f"cannot be converted: {what}", "download the file again, or give the model as a Hugging Face folder"
        ) from error
    fixed = ["digits stand alone"] * _split_digits(tokenizer, header)
    n_weights, n_ties = sum(weight.numel() for weight in model.parameters()), _break_ties(model)
    if n_ties > _CHANCE_TIES * n_weights:
        fixed.append(f"{n_ties / n_weights:.1%} of the weights moved off a tie in bfloat16")
    done = Converted(path, folder, header.architecture, n_weights, tuple(fixed))
    _require_room(folder, 4 * n_weights)
    with new_folder(folder, replace=False) as temporary:
        with redirect_stderr(io.StringIO()):
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "origin.json", {"gguf": path.name, "bytes": path.stat().st_size, "fixed": fixed})
    return done


def _require_room(folder: Path, n_bytes: int) -> None:
    place = next(parent for parent in folder.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise UserError.single(
            str(folder),
            f"the converted model takes {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there",
            "make room, or write it elsewhere with `distillability convert MODEL.gguf FOLDER` and name that folder",
        )


def _read_model(path: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.config.architectures = [type(model).__name__]
    vars(model.config).pop("_model_name_or_path", None)  # the file's own title, which is no path
    return model


def _read_tokenizer(path: Path, header: GgufHeader) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(
        path.parent,
        gguf_file=path.name,
        padding_side="left",
        model_max_length=header.config["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def _split_digits(tokenizer: PreTrainedTokenizerBase, header: GgufHeader) -> bool:
    """Split a text before and after every digit where the vocabulary was learnt so; whether it was."""
    if header.has_single_digits:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    return header.has_single_digits


@torch.no_grad()
def _break_ties(model: PreTrainedModel) -> int:
    """Spread weights midway between two bfloat16 numbers between there and the one they round to; how many there were."""
    generator = torch.Generator().manual_seed(0)
    found = 0
    for weight in model.parameters():
        ties = (weight.view(torch.int32) & 0xFFFF) == 0x8000
        n_ties = int(ties.sum())
        if n_ties:
            middle = weight[ties]
            weight[ties] = middle + (middle.bfloat16().float() - middle) * torch.rand(n_ties, generator=generator)
        found += n_ties
    return found
