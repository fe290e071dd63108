"""A decoder for Llama-like models: what `generate` gives, token for token, in a fraction of its time.

Where the time goes: at one new token a row a step is a handful of small products, and most of `generate` is the bookkeeping around them.
So here weights are fused once (norm gains folded into the projections that follow, queries, keys and values in one product, gate and up in
another, the attention's scale in the queries), keys and values are written into a buffer of fixed size, texts that are equal so far (all
completions of a prompt are at first) are computed once and part where they differ, finished texts are dropped, and a token is drawn by
inverting the cumulative distribution.

Supported are Llama (SmolLM), Mistral, Qwen2, Qwen3 and Gemma3 text models, with LoRA adapters or without; `unsupported` says why another
is not, and whoever asks falls back to transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from distillability.rollouts.sampling import choose_tokens

__all__ = ["Decoder", "unsupported"]

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
_ACTIVATIONS = {"silu": F.silu, "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh")}
_DROP_AT = 0.8  # finished texts are dropped once at most this share is unfinished: each time costs a copy of keys and values


def unsupported(model: nn.Module, length: int) -> str | None:
    """Why this decoder cannot serve `model` up to `length` tokens a row; None where it can."""
    config = _causal(model).config
    if config.model_type not in _FAMILIES:
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
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


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


class Decoder:
    """Decodes with a copy of a model's weights.

    Args:
        model: a causal language model for which `unsupported` has nothing to say; it is read, never changed.
        dtype: of the products; float32 or bfloat16. Residual stream, norms and probabilities are float32.

    The copy is as old as the last `refresh`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32):
        self.dtype, self.causal = dtype, _causal(model)
        self.backbone = self.causal.model
        config = self.causal.config
        self.device = self.backbone.embed_tokens.weight.device
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = self.backbone.layers[0].self_attn.head_dim
        self.epsilon = config.rms_norm_eps
        self.activation = _ACTIVATIONS[getattr(config, "hidden_activation", None) or config.hidden_act]
        self.cap = getattr(config, "final_logit_softcapping", None)
        self._tables: dict[str | None, torch.Tensor] = {}
        self.refresh()

    # Weights

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the model's weights again, after an update of them."""
        self.layers = [self._fuse(layer) for layer in self.backbone.layers]
        embedding = self.backbone.embed_tokens
        self.embedding = embedding.weight.detach()
        self.embedding_scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
        self.final_gain = _gain(self.backbone.norm)
        self.head = _Linear.read(self.causal.lm_head).to(self.dtype)

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        gemma = hasattr(layer, "pre_feedforward_layernorm")
        queries, keys = (_Linear.read(linear).rows(self._interleave) for linear in (attention.q_proj, attention.k_proj))
        gain = None
        if hasattr(attention, "q_norm"):
            q_gain, k_gain = self._interleave(_gain(attention.q_norm)) * attention.scaling, self._interleave(_gain(attention.k_norm))
            gain = torch.cat([q_gain.expand(self.n_heads, -1), k_gain.expand(self.n_kv_heads, -1)])
        else:
            queries = queries.rows(lambda row: row * attention.scaling)
        gate_up = _Linear.join(_Linear.read(mlp.gate_proj), _Linear.read(mlp.up_proj))
        before_mlp = layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm
        return _Layer(
            qkv=_Linear.join(queries, keys, _Linear.read(attention.v_proj)).after(_gain(layer.input_layernorm)).to(self.dtype),
            qk_gain=gain,
            out=_Linear.read(attention.o_proj).to(self.dtype),
            out_gain=_gain(layer.post_attention_layernorm) if gemma else None,
            gate_up=gate_up.after(_gain(before_mlp)).to(self.dtype),
            down=_Linear.read(mlp.down_proj).to(self.dtype),
            down_gain=_gain(layer.post_feedforward_layernorm) if gemma else None,
            rope=attention.layer_type if self._rope_by_kind() else None,
        )

    def _interleave(self, rows: torch.Tensor) -> torch.Tensor:
        """Bring each head's dimension i next to i + D/2, so that a pair is one complex number and a rotation one product.

        Queries and keys are permuted alike, so their products stay what they were.
        """
        heads = rows.view(-1, 2, self.head_dim // 2, *rows.shape[1:])
        return heads.transpose(1, 2).reshape(rows.shape)

    def _rope_by_kind(self) -> bool:
        return isinstance(next(iter(getattr(self.backbone.config, "rope_parameters", {}).values()), None), dict)

    def _rotations(self, kind: str | None, length: int) -> torch.Tensor:
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

    # Decoding

    @torch.inference_mode()
    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        end_ids: Sequence[int],
        uniforms: torch.Tensor | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Complete every prompt; what is equal so far is computed once.

        Args:
            prompts: token ids, none empty.
            end_ids: a row ends after the first of these.
            uniforms: [len(prompts), max_new_tokens] in [0, 1), the draws of each row; None decodes greedily. A row's tokens depend on its
                own draws alone, not on the rows beside it.

        Returns:
            the new ids of each prompt, the end id included where it came, and their log-probabilities at this temperature in nats.
        """
        unique = {prompt: index for index, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        ids, padding = _left_pad(list(unique), self.device)
        slot = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=self.device)  # of each live row
        state = _State(self, n_used=len(unique), capacity=len(prompts), n_slots=ids.shape[1] + max_new_tokens, padding=padding)
        ends = torch.tensor(list(end_ids), device=self.device)
        tokens = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(len(prompts), max_new_tokens, device=self.device)
        lengths = torch.full((len(prompts),), max_new_tokens, device=self.device)
        live = torch.arange(len(prompts), device=self.device)
        uniforms = None if uniforms is None else uniforms.to(self.device)
        for step in range(max_new_tokens):
            logits = self._forward(state, ids)[slot]
            draws = None if uniforms is None else uniforms[live, step]
            chosen, logprob = choose_tokens(logits, draws, temperature=temperature, top_k=top_k, top_p=top_p)
            tokens[live, step], logprobs[live, step] = chosen, logprob
            ended = torch.isin(chosen, ends)
            if ended.any():
                lengths[live[ended]] = step + 1
                live, slot, chosen = live[~ended], slot[~ended], chosen[~ended]
                if len(live) == 0:
                    break
            slot, ids = state.follow(slot, chosen)
        counts = lengths.tolist()
        rows_of_ids = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
        return rows_of_ids, [row[:count] for row, count in zip(logprobs.tolist(), counts, strict=True)]

    def _forward(self, state: _State, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] float32 after the last of the new tokens `ids` [B, T]; keys and values go into the state."""
        new = ids.shape[1]
        end = state.filled + new
        positions, bias = state.positions(new), state.attention_bias(new)
        x = F.embedding(ids, self.embedding).float() * self.embedding_scale
        for index, layer in enumerate(self.layers):
            rotation = self._rotations(layer.rope, end)[positions]
            attended = layer.out(self._attend(state, index, layer, self._norm(x), rotation, bias, end))
            x = x + (attended if layer.out_gain is None else self._norm(attended.float(), layer.out_gain))
            gate, up = layer.gate_up(self._norm(x)).chunk(2, dim=-1)
            fed = layer.down(self.activation(gate) * up)  # type: ignore[no-untyped-call]
            x = x + (fed if layer.down_gain is None else self._norm(fed.float(), layer.down_gain))
        state.filled = end
        logits = self.head(self._norm(x[:, -1], self.final_gain)).float()
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def _attend(
        self, state: _State, index: int, layer: _Layer, x: torch.Tensor, rotation: torch.Tensor, bias: torch.Tensor | None, end: int
    ) -> torch.Tensor:
        """Attention of the new positions over everything read so far, [B, T, Hq · D]."""
        (rows, new, _), n_rotated = x.shape, self.n_heads + self.n_kv_heads
        qkv = layer.qkv(x).view(rows, new, -1, self.head_dim)
        qk = qkv[:, :, :n_rotated].float()
        if layer.qk_gain is not None:
            qk = self._norm(qk, layer.qk_gain)
        pairs: torch.Tensor = torch.view_as_complex(qk.reshape(rows, new, n_rotated, -1, 2)) * rotation
        qk = torch.view_as_real(pairs).flatten(-2).to(self.dtype)
        keys, values = state.write(index, qk[:, :, self.n_heads :], qkv[:, :, n_rotated:], end)
        shared = self.n_heads // self.n_kv_heads
        queries = qk[:, :, : self.n_heads].view(rows, new, self.n_kv_heads, shared, -1).permute(0, 2, 3, 1, 4)
        queries = queries.reshape(rows * self.n_kv_heads, shared * new, -1)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if bias is not None:
            scores = (scores.view(rows, self.n_kv_heads, shared, new, end) + bias).view(scores.shape)
        context = torch.bmm(scores.softmax(-1, dtype=torch.float32).to(self.dtype), values)
        context = context.view(rows, self.n_kv_heads, shared, new, -1).permute(0, 3, 1, 2, 4)
        return context.reshape(rows, new, -1)

    def _norm(self, x: torch.Tensor, gain: torch.Tensor | None = None) -> torch.Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return x if gain is None else x * gain


class _State:
    """Keys and values of every text that is being written: the leaves of a tree whose root is the prompt.

    A slot belongs to a text, not to a row: rows that have drawn the same tokens so far share it, and part where their tokens do. Slots
    0 … n_used are in use, each [Hkv, n_slots, D] in every layer.
    """

    def __init__(self, decoder: Decoder, *, n_used: int, capacity: int, n_slots: int, padding: torch.Tensor | None):
        self.filled, self.n_used, self.n_slots = 0, n_used, n_slots
        self.n_kv_heads, self.device = decoder.n_kv_heads, decoder.device
        self.padding = padding  # [n_used], None where no prompt has any
        shape = capacity, decoder.n_kv_heads, n_slots, decoder.head_dim
        self.keys = [torch.empty(shape, dtype=decoder.dtype, device=self.device) for _ in decoder.layers]
        self.values = [torch.empty(shape, dtype=decoder.dtype, device=self.device) for _ in decoder.layers]

    def follow(self, slot: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each live row goes on after its chosen token, [R], and the token that each slot reads next, [n_used, 1]."""
        by_slot = (slot << 32) + chosen
        texts, text_of_row = torch.unique(by_slot, return_inverse=True)  # sorted, so that the texts of one slot lie side by side
        parent, token = texts >> 32, texts & 0xFFFFFFFF
        stays = torch.ones_like(parent, dtype=torch.bool)
        stays[1:] = parent[1:] != parent[:-1]
        n_live = int(stays.sum())
        if n_live <= _DROP_AT * self.n_used:
            self._keep(parent[stays], capacity=len(slot))
            parent = stays.cumsum(0) - 1
        moved = self._branch(parent[~stays])
        place = parent.masked_scatter(~stays, moved)
        ids = torch.zeros(self.n_used, 1, dtype=torch.long, device=self.device)
        ids[place, 0] = token
        return place[text_of_row], ids

    def _keep(self, slots: torch.Tensor, capacity: int) -> None:
        """Go on with these slots alone, in this order."""
        for buffers in (self.keys, self.values):
            for index, buffer in enumerate(buffers):
                kept = buffer.new_empty(capacity, *buffer.shape[1:])
                kept[: len(slots), :, : self.filled] = buffer[slots, :, : self.filled]
                buffers[index] = kept
        self.n_used = len(slots)
        if self.padding is not None:
            self.padding = self.padding[slots]

    def _branch(self, parents: torch.Tensor) -> torch.Tensor:
        """New slots that hold what their parents hold; returns their numbers."""
        if len(parents) == 0:
            return parents
        new = slice(self.n_used, self.n_used + len(parents))
        for buffer in (*self.keys, *self.values):
            buffer[new, :, : self.filled] = buffer[parents, :, : self.filled]
        self.n_used = new.stop
        if self.padding is not None:
            self.padding = torch.cat([self.padding, self.padding[parents]])
        return torch.arange(new.start, new.stop, device=self.device)

    def write(self, index: int, keys: torch.Tensor, values: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new [B, T, Hkv, D]; returns all so far, [B · Hkv, end, D]."""
        found = []
        for buffer, new in ((self.keys[index], keys), (self.values[index], values)):
            buffer[: self.n_used, :, self.filled : end] = new.transpose(1, 2)
            found.append(buffer[: self.n_used].view(-1, *buffer.shape[2:])[:, :end])
        return found[0], found[1]

    def positions(self, new: int) -> Any:
        """Index into a table of positions that gives [B or 1, T, 1, D/2]: slots less the row's padding."""
        slots = torch.arange(self.filled, self.filled + new, device=self.device)
        if self.padding is None:
            return slots[None, :, None]
        return (slots[None] - self.padding[:, None]).clamp(min=0)[:, :, None]

    def attention_bias(self, new: int) -> torch.Tensor | None:
        """[B or 1, 1, 1, T, end], 0 where a new position may look and −∞ where it may not; None where it may look everywhere."""
        end = self.filled + new
        slots = torch.arange(end, device=self.device)
        hidden = slots[None, None] > slots[self.filled :][None, :, None] if new > 1 else None
        if self.padding is not None:
            padded = (slots[None] < self.padding[:, None])[:, None]
            # A padding position looks at itself: a row of nothing but −∞ would turn into nan.
            padded = padded & (slots[None, None] != slots[self.filled :][None, :, None])
            hidden = padded if hidden is None else hidden | padded
        if hidden is None:
            return None
        return torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, -torch.inf)[:, None, None]


def _left_pad(prompts: list[tuple[int, ...]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ids [B, width], and how much padding each row has [B], None where none has any. What stands in the padding is never looked at."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * missing + list(prompt) for missing, prompt in zip(padding, prompts, strict=True)], device=device)
    return ids, torch.tensor(padding, device=device) if any(padding) else None


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


def _gain(norm: Any) -> torch.Tensor:
    """What a norm multiplies by; Gemma's is 1 + its weight."""
    weight: torch.Tensor = norm.weight.detach().float()
    return 1 + weight if type(norm).__name__.startswith("Gemma") else weight
