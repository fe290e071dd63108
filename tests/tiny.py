"""Tiny random models and tasks: real Hugging Face folders that answer nonsense in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from distillability.lab.tokenizers import byte_pair_tokenizer, character_tokenizer
from distillability.tasks.base import Task, split_of
from distillability.tasks.maths import ALPHABET, Maths
from distillability.types import Grade, Prompt, Split

__all__ = ["CHAT_TEMPLATE", "Parity", "tiny_gguf", "tiny_model", "tiny_models"]


class Parity(Task):
    """Right is an even number of characters: about half of what a random model says, so that groups are mixed."""

    name = "parity"
    chance = 0.5

    def stream(self, split: Split) -> Iterator[Prompt]:
        for number in range(100_000):
            if split_of(str(number)) == split:
                yield Prompt(id=str(number), text=str(number), answer="")

    def grade(self, prompt: Prompt, text: str) -> Grade:
        return Grade(right=len(text) % 2 == 0)


def tiny_model(folder: Path, tokenizer: PreTrainedTokenizerBase, *, seed: int, layers: int = 1, width: int = 16) -> Path:
    """A random Llama saved as an ordinary folder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_models(folder: Path) -> dict[str, Path]:
    """A teacher, a proxy with another tokenizer, and a student with the teacher's."""
    task = Maths()
    texts = [part for prompt in task.prompts("calibrate", 100) for part in (prompt.text, task.render(prompt, "remark_easy"))]
    return {
        "teacher": tiny_model(folder / "teacher", character_tokenizer(ALPHABET), seed=1, layers=2),
        "proxy": tiny_model(folder / "proxy", byte_pair_tokenizer(texts, 64), seed=2),
        "student": tiny_model(folder / "student", character_tokenizer(ALPHABET), seed=3),
    }


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_gguf(
    path: Path, *, pre: str = "smollm", seed: int = 1, architecture: str = "llama", half: bool = False, **metadata: str
) -> LlamaForCausalLM:
    """Write a random Llama with a byte-level tokenizer as a GGUF file; returns the model it was written from.

    Its merges join two line ends, and the digits 1 and 2, as merges learnt without splitting digits would.

    Args:
        half: weights in float16 instead of float32.
    """
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *bytes_to_unicode().values(), "ĊĊ", "12", "th", "the"]
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    if half:
        model = model.half().float()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges(["Ċ Ċ", "1 2", "t h", "th e"])
    for add, token in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_pad_token_id, 2)):
        add(token)
    writer.add_chat_template(CHAT_TEMPLATE)
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(*_gguf_tensor(name, weight.half() if half else weight, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _gguf_tensor(name: str, weight: torch.Tensor, config: LlamaConfig) -> tuple[str, object]:
    """Name and weight as llama.cpp has them: of queries and keys, the halves of each head lie interleaved."""
    for heads, part in ((config.num_attention_heads, "q_proj"), (config.num_key_value_heads, "k_proj")):
        if part in name:
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    for ours, theirs in _GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name, weight.contiguous().numpy()


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.layers": "blk",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}
