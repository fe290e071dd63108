"""How many weights a model has and where, from its configuration alone; equal to what transformers builds, weight for weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distillability.errors import UserError
from distillability.models.architectures import ARCHITECTURES, Architecture, inner_architecture

__all__ = ["ModelShape", "model_shape"]

# What transformers fills in for a Llama where a file leaves it out. None: hidden size over attention heads, and as many as these.
_COMMON: dict[str, Any] = {
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": None,
    "num_key_value_heads": None,
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class ModelShape:
    """The measures of a decoder with gated feed-forward layers, names as in transformers' configurations.

    Attributes:
        vectors: weights of a layer that are no matrix: norms and biases.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    vectors: int

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of keys, and of values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the matrices of one layer, by the names that adapters use."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (self.query_width, hidden),
            "k_proj": (self.kv_width, hidden),
            "v_proj": (self.kv_width, hidden),
            "o_proj": (hidden, self.query_width),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
        }

    @property
    def layer_matrices(self) -> int:
        """Weights of all layers' matrices: each takes part in one product a token."""
        return self.num_hidden_layers * sum(out * into for out, into in self.linears.values())

    @property
    def head(self) -> int:
        """Weights of the output head, tied or not."""
        return self.vocab_size * self.hidden_size

    @property
    def n_weights(self) -> int:
        """All of them; a tied head is counted once."""
        embeddings = self.head * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.layer_matrices + self.num_hidden_layers * self.vectors + self.hidden_size

    def adapter_weights(self, rank: int, target_modules: Sequence[str] = ()) -> int:
        """Weights of a low-rank adapter of these matrices, of all where none is named."""
        named = [shape for name, shape in self.linears.items() if not target_modules or name in target_modules]
        return self.num_hidden_layers * rank * sum(out + into for out, into in named)

    def cache(self, tokens: int) -> int:
        """Numbers in keys and values of so many tokens."""
        return 2 * self.num_hidden_layers * self.kv_width * tokens


def model_shape(reference: str, config: dict[str, Any]) -> ModelShape:
    """The shape that `config.json` describes; of a model of several kinds of input, that of its language model.

    Raises:
        UserError: the architecture is not one of `ARCHITECTURES`, or a size is missing.
    """
    inner = config.get("text_config")
    if isinstance(inner, dict):
        whole = str(config.get("model_type"))
        config = {"model_type": inner_architecture(whole) or whole, **inner}
    name = str(config.get("model_type"))
    if name not in ARCHITECTURES:
        what = f"an architecture that cannot be planned for ({name})"
        raise UserError.single(reference, what, f"use a model of {', '.join(ARCHITECTURES)}; others run, but are not counted here")
    architecture = ARCHITECTURES[name]
    given = {**_COMMON, **architecture.defaults, **{key: value for key, value in config.items() if value is not None}}
    missing = [size for size in _SIZES if not isinstance(given.get(size), int)]
    if missing:
        raise UserError.single(reference, f"its configuration has no {', '.join(missing)}", "save the model again")
    heads, hidden = given["num_attention_heads"], given["hidden_size"]
    head_dim, kv_heads = given["head_dim"] or hidden // heads, given["num_key_value_heads"] or heads
    return ModelShape(
        architecture=name,
        **{size: given[size] for size in _SIZES},
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=given["tie_word_embeddings"],
        vectors=_vectors(architecture, given, heads * head_dim, kv_heads * head_dim, head_dim),
    )


def _vectors(architecture: Architecture, given: dict[str, Any], query_width: int, kv_width: int, head_dim: int) -> int:
    hidden, inner = given["hidden_size"], given["intermediate_size"]
    norms = (4 if architecture.norms_behind else 2) * hidden + (2 * head_dim if architecture.qk_norm else 0)
    of_qkv, of_output = query_width + 2 * kv_width, hidden
    attention = of_qkv if architecture.qkv_bias else of_qkv + of_output if given["attention_bias"] else 0
    return int(norms + attention + (2 * inner + hidden if given["mlp_bias"] else 0))
