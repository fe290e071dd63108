"""A Llama-like model with its weights fused, for forward passes without gradient.

At the sizes of a laptop most of a library's forward pass is the bookkeeping around small products. So here norm gains are folded into the
projections that follow, queries, keys and values are one product, gate and up another, the attention's scale is in the queries, and a
rotation is one complex product. The decoder in `inference/decoder.py` reads it a token at a time, `models/head.py` whole texts at once.

Supported are the architectures of `models/architectures.py`, with LoRA adapters or without; `unsupported` says why another model is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distillability.budgets import NARROW_WIDTH
from distillability.models.architectures import ARCHITECTURES

__all__ = ["Attend", "FusedModel", "is_narrow", "unsupported"]

_ACTIVATIONS = {"silu": F.silu, "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh")}
_FEW_ROWS = 128  # a half-precision product of so few rows is faster with the weight on its left, on processors

# (layer, queries [B, T, Hq, D], keys and values [B, T, Hkv, D], rotated and scaled) → what each query attended to, [B, T, Hq · D].
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def is_narrow(model: nn.Module) -> bool:
    """Whether a model is so narrow that on a processor overheads, not products, take the time."""
    return bool(_causal(model).config.get_text_config().hidden_size < NARROW_WIDTH)


def unsupported(model: nn.Module, length: int) -> str | None:
    """Why `model` cannot be fused and read up to `length` tokens a row; None where it can."""
    config = _causal(model).config
    if config.model_type not in ARCHITECTURES:
        return f"architecture {config.model_type}"
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in _ACTIVATIONS:
        return f"activation {activation}"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "use_bidirectional_attention", False):
        return "capped or bidirectional attention"
    window = getattr(config, "sliding_window", None)
    if window is not None and length > window:
        return f"{length} tokens in a sliding window of {window}"
    if any(kind in ("dynamic", "longrope") for kind in _rope_kinds(config)):
        return "position embeddings that change with the length"
    backbone = _causal(model).model
    for name, module in backbone.layers.named_modules():
        if name.endswith("_proj") and not _plain_or_lora(module):
            return f"{name} is a {type(module).__name__}"
    if any(hasattr(parameter, "ds_id") or type(parameter.data) is not torch.Tensor for parameter in backbone.parameters()):
        return "sharded parameters"
    return None


@dataclass(frozen=True)
class _Linear:
    """weight [out, in] and bias [out] of one or several layers, applied in the weight's dtype."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def read(cls, module: Any) -> _Linear:
        """A linear layer with its active adapters added, detached, float32."""
        base = getattr(module, "base_layer", module)
        weight, bias = base.weight.detach().float(), None if base.bias is None else base.bias.detach().float()
        if base is not module and not (module.disable_adapters or module.merged):
            active = [name for name in module.active_adapters if name in module.lora_A]
            weight = sum((module.get_delta_weight(name).detach().float() for name in active), weight)
        return cls(weight, bias)

    @classmethod
    def join(cls, *parts: _Linear) -> _Linear:
        """One product in place of several of the same input."""
        biases = [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
        has_bias = any(part.bias is not None for part in parts)
        return cls(torch.cat([part.weight for part in parts]), torch.cat(biases) if has_bias else None)

    def rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> _Linear:
        """Change the outputs: scale or reorder them."""
        return _Linear(change(self.weight), None if self.bias is None else change(self.bias))

    def after(self, gain: torch.Tensor) -> _Linear:
        """Take over the gain [in] of the norm before it."""
        return _Linear(self.weight * gain, self.bias)

    def to(self, dtype: torch.dtype) -> _Linear:
        return _Linear(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.weight.dtype)
        n_rows = x.numel() // x.shape[-1]
        if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or n_rows > _FEW_ROWS or self.bias is not None:
            return F.linear(x, self.weight, self.bias)
        return torch.mm(self.weight, x.reshape(n_rows, -1).t()).t().contiguous().view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class _Layer:
    """Fused weights of one layer; gains that the architecture lacks are None."""

    qkv: _Linear
    qk_gain: torch.Tensor | None  # [Hq + Hkv, D]
    out: _Linear
    out_gain: torch.Tensor | None  # Gemma's norm after attention
    gate_up: _Linear
    down: _Linear
    down_gain: torch.Tensor | None
    rope: str | None  # the layer's kind of position embedding, where layers differ


class FusedModel:
    """A copy of a model's weights, fused.

    Args:
        model: a causal language model for which `unsupported` has nothing to say; it is read, never changed.
        dtype: of the products; float32 or bfloat16. Residual stream, norms and probabilities are float32.

    The copy is as old as the last `refresh`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32):
        self.dtype, self.causal = dtype, _causal(model)
        self.backbone = self.causal.model
        config = self.causal.config
        self.architecture = ARCHITECTURES[config.model_type]
        self.device = self.backbone.embed_tokens.weight.device
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = self.backbone.layers[0].self_attn.head_dim
        self.epsilon = config.rms_norm_eps
        self.activation = _ACTIVATIONS[getattr(config, "hidden_activation", None) or config.hidden_act]
        self.cap = getattr(config, "final_logit_softcapping", None)
        self._tables: dict[str | None, torch.Tensor] = {}
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the model's weights again, after an update of them."""
        self.layers = [self._fuse(layer) for layer in self.backbone.layers]
        embedding = self.backbone.embed_tokens
        self.embedding = embedding.weight.detach()
        self.embedding_scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
        self.final_gain = self._gain(self.backbone.norm)
        self.head = _Linear.read(self.causal.lm_head).to(self.dtype)

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        norms_behind = self.architecture.norms_behind
        queries, keys = (_Linear.read(linear).rows(self._interleave) for linear in (attention.q_proj, attention.k_proj))
        gain = None
        if self.architecture.qk_norm:
            q_gain, k_gain = (self._interleave(self._gain(norm)) for norm in (attention.q_norm, attention.k_norm))
            gain = torch.cat([(q_gain * attention.scaling).expand(self.n_heads, -1), k_gain.expand(self.n_kv_heads, -1)])
        else:
            queries = queries.rows(lambda row: row * attention.scaling)
        gate_up = _Linear.join(_Linear.read(mlp.gate_proj), _Linear.read(mlp.up_proj))
        before_mlp = layer.pre_feedforward_layernorm if norms_behind else layer.post_attention_layernorm
        return _Layer(
            qkv=_Linear.join(queries, keys, _Linear.read(attention.v_proj)).after(self._gain(layer.input_layernorm)).to(self.dtype),
            qk_gain=gain,
            out=_Linear.read(attention.o_proj).to(self.dtype),
            out_gain=self._gain(layer.post_attention_layernorm) if norms_behind else None,
            gate_up=gate_up.after(self._gain(before_mlp)).to(self.dtype),
            down=_Linear.read(mlp.down_proj).to(self.dtype),
            down_gain=self._gain(layer.post_feedforward_layernorm) if norms_behind else None,
            rope=attention.layer_type if self._rope_by_kind() else None,
        )

    def _gain(self, norm: Any) -> torch.Tensor:
        """What a norm multiplies by."""
        weight: torch.Tensor = norm.weight.detach().float()
        return 1 + weight if self.architecture.offset_norms else weight

    def _interleave(self, rows: torch.Tensor) -> torch.Tensor:
        """Bring each head's dimension i next to i + D/2, so that a pair is one complex number and a rotation one product.

        Queries and keys are permuted alike, so their products stay what they were.
        """
        heads = rows.view(-1, 2, self.head_dim // 2, *rows.shape[1:])
        return heads.transpose(1, 2).reshape(rows.shape)

    def _rope_by_kind(self) -> bool:
        return isinstance(next(iter(getattr(self.backbone.config, "rope_parameters", {}).values()), None), dict)

    def rotations(self, kind: str | None, length: int) -> torch.Tensor:
        """e^{i·position·frequency}, [length, D/2] complex64, from the model's own table."""
        table = self._tables.get(kind)
        if table is None or len(table) < length:
            positions = torch.arange(max(length, 128), device=self.device)[None]
            kinds = () if kind is None else (kind,)
            cos, sin = self.backbone.rotary_emb(torch.empty(0, device=self.device, dtype=torch.float32), positions, *kinds)
            half = self.head_dim // 2
            table = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float()).contiguous()
            self._tables[kind] = table
        return table

    # Reading

    def hidden(self, ids: torch.Tensor, positions: Any, end: int, attend: Attend) -> torch.Tensor:
        """The residual stream [B, T, D] float32 after the last layer, before the last norm.

        Args:
            ids: [B, T] tokens.
            positions: an index into a table of positions [end, …] that gives [B or 1, T, 1, …].
            end: one more than the highest position.
        """
        turns = {kind: self.rotations(kind, end)[positions] for kind in {layer.rope for layer in self.layers}}
        x = F.embedding(ids, self.embedding).float() * self.embedding_scale
        for index, layer in enumerate(self.layers):
            attended = layer.out(attend(index, *self._queries_keys_values(layer, self._norm(x), turns[layer.rope])))
            x = x + (attended if layer.out_gain is None else self._norm(attended.float(), layer.out_gain))
            gate, up = layer.gate_up(self._norm(x)).chunk(2, dim=-1)
            fed = layer.down(self.activation(gate) * up)  # type: ignore[no-untyped-call]
            x = x + (fed if layer.down_gain is None else self._norm(fed.float(), layer.down_gain))
        return x

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """The residual stream [B, T, D] of whole texts [B, T], each token seeing those before it; whatever pads them is on the right."""

        def attend(index: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
            found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=self.n_heads != self.n_kv_heads)
            return found.transpose(1, 2).flatten(2)

        length = ids.shape[1]
        return self.hidden(ids, torch.arange(length, device=self.device)[None, :, None], length, attend)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """What the output head reads, from the residual stream."""
        return self._norm(x, self.final_gain)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[…, V] float32 from the residual stream […, D]."""
        logits = self.head(self.normed(x)).float()
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def _queries_keys_values(self, layer: _Layer, x: torch.Tensor, turn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B, T, heads, D] each, the first two normed where the architecture does so, and rotated."""
        (rows, new, _), n_rotated = x.shape, self.n_heads + self.n_kv_heads
        qkv = layer.qkv(x).view(rows, new, -1, self.head_dim)
        qk = qkv[:, :, :n_rotated].float()
        if layer.qk_gain is not None:
            qk = self._norm(qk, layer.qk_gain)
        pairs: torch.Tensor = torch.view_as_complex(qk.reshape(rows, new, n_rotated, -1, 2)) * turn
        qk = torch.view_as_real(pairs).flatten(-2).to(self.dtype)
        return qk[:, :, : self.n_heads], qk[:, :, self.n_heads :], qkv[:, :, n_rotated:]

    def _norm(self, x: torch.Tensor, gain: torch.Tensor | None = None) -> torch.Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return x if gain is None else x * gain


def _causal(model: nn.Module) -> Any:
    """The causal language model inside an adapter's wrapper."""
    inner: Any = model
    return inner.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else inner


def _rope_kinds(config: Any) -> list[str]:
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [value.get("rope_type") for value in parameters.values() if isinstance(value, dict)]
    return [kind for kind in [*kinds, parameters.get("rope_type")] if isinstance(kind, str)]


def _plain_or_lora(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    return hasattr(module, "get_delta_weight") and type(getattr(module, "base_layer", None)) is nn.Linear
