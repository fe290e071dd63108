"""A smaller model made of some layers of a larger one, or some of its vocabulary: it begins with what the larger one knows.

All else is kept as it is. With fewer layers a model can do little until it is healed: trained on the teacher's texts for a while, which
`distillability distill` does as with any other student. With the vocabulary that some texts need it does on such texts what it did before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from distillability.errors import UserError
from distillability.files import new_folder, write_json
from distillability.models.architectures import ARCHITECTURES
from distillability.models.load import load_model
from distillability.models.vocabulary import Chat, keep_vocabulary_of

__all__ = ["Cut", "cut", "evenly_spaced", "keep_layers"]


@dataclass(frozen=True)
class Cut:
    """What was cut: from which model, which of its layers and how many of its tokens are left, how many weights they make with the rest."""

    source: str
    folder: Path
    layers: tuple[int, ...]
    of_layers: int
    n_tokens: int
    of_tokens: int
    n_weights: int

    def __str__(self) -> str:
        kept = "all" if self.layers == tuple(range(self.of_layers)) else ", ".join(map(str, self.layers))
        tokens = "" if self.n_tokens == self.of_tokens else f" and {self.n_tokens:,} of {self.of_tokens:,} tokens"
        return f"{self.folder}: layers {kept} of {self.of_layers}{tokens} of {self.source}, {self.n_weights / 1e6:.1f} M weights"


def cut(
    reference: str,
    folder: Path,
    layers: int | Sequence[int] | None = None,
    *,
    chats: Sequence[Chat] | None = None,
    trust_remote_code: bool = False,
) -> Cut:
    """Write a part of a model as an ordinary Hugging Face folder with `origin.json`; whole or not at all, in the dtype it is kept in.

    Args:
        layers: how many, evenly spaced; or which ones, in the order they get; all where None, which leaves of a model of several kinds of
            input its language model.
        chats: (question, answer) pairs whose vocabulary is kept; all of it where None.

    Raises:
        UserError: there is no such model, its architecture or its vocabulary cannot be cut, or it has no such layers.
    """
    loaded = load_model(reference, dtype="auto", device=torch.device("cpu"), trust_remote_code=trust_remote_code)
    n_layers = loaded.model.config.num_hidden_layers
    kept = list(range(n_layers)) if layers is None else evenly_spaced(n_layers, layers) if isinstance(layers, int) else list(layers)
    model = keep_layers(loaded.model, kept)
    of_tokens: int = model.config.vocab_size
    if chats is not None:
        loaded = keep_vocabulary_of(loaded, chats)
    done = Cut(reference, folder, tuple(kept), n_layers, model.config.vocab_size, of_tokens, model.num_parameters())
    with new_folder(folder, replace=False) as temporary:
        model.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        origin = {"cut_from": reference, "layers": kept, "of_layers": n_layers, "tokens": done.n_tokens, "of_tokens": of_tokens}
        write_json(temporary / "origin.json", origin)
    return done


def evenly_spaced(n_layers: int, kept: int) -> list[int]:
    """So many of the layers 0 … n_layers − 1, the first and the last among them.

    Raises:
        UserError: there are not as many.
    """
    if not 1 <= kept <= n_layers:
        raise UserError.single(f"--layers {kept}", f"the model has {n_layers} layers", f"keep 1 to {n_layers} of them")
    return [round(index * (n_layers - 1) / max(1, kept - 1)) for index in range(kept)]


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """The model itself with these of its layers alone, in this order.

    Raises:
        UserError: it is of an architecture that cannot be cut, or it has no such layers.
    """
    config, name = model.config, str(model.name_or_path)
    if config.model_type not in ARCHITECTURES:
        raise UserError.single(name, f"a model of architecture {config.model_type} cannot be cut", f"use one of {', '.join(ARCHITECTURES)}")
    whole = model.model.layers
    if not layers or len(set(layers)) != len(layers) or not all(0 <= layer < len(whole) for layer in layers):
        what = f"{', '.join(map(str, layers)) or 'none'}: not different layers of 0 to {len(whole) - 1}"
        raise UserError.single(f"--layers of {name}", what, "name each layer once")
    model.model.layers = nn.ModuleList(whole[layer] for layer in layers)
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place  # its place in a cache of keys and values
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    return model
