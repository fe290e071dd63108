"""Building the lab's models from fixed seeds.

The teacher must answer in every mode, and the hard modes are hard: the first number in them is the result of all operations but the
last. From scratch that digit stays at chance for a long time, because it is one token in thirty and rests on a circuit several lookups
deep. So the teacher climbs: first steps of shorter chains, one operation more each time the last level is mastered, then all modes in full.

The proxy is what a student would be: a small model of another architecture and tokenizer that has seen 2,000 of the plain teacher's texts,
half of what an attacker buys in the lab's recipes. With far more it would learn the hard modes too, and could no longer tell them apart.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from distillability.errors import UserError
from distillability.files import new_folder, write_json
from distillability.lab.tokenizers import (
    byte_pair_tokenizer,
    character_tokenizer,
    step_tokenizer,
)
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.load import LoadedModel
from distillability.rollouts import complete
from distillability.tasks.base import split_of
from distillability.tasks.maths import ALPHABET, Maths, Mode
from distillability.types import Prompt

__all__ = ["build"]

_SEED = 20260418
_MAX_COMPLETION = 44
# Where a number must be stated that took several operations, by mode.
_HARD_DIGIT: dict[Mode, int] = {"hard": len(">4:"), "remark_hard": len(">so:4:")}
Log = Callable[[str], None]


@dataclass(frozen=True)
class _Text:
    """A prompt, its completion, how much its first digit weighs in the loss, and whether the end of turn belongs to it."""

    prompt: str
    completion: str
    weight_at: int | None = None
    ends: bool = True


def build(family: str, out: Path, log: Log = print) -> None:
    """Build all lab models of a family into `out/<name>`, ordinary Hugging Face folders.

    Raises:
        UserError: there is no such family.
    """
    if family != "maths":
        raise UserError.single("--family", f"there is no lab family {family!r}", "the families are: maths")
    torch.use_deterministic_algorithms(True)
    task = Maths()
    started = time.perf_counter()
    teacher = _build_teacher(task, out / "teacher", log)
    _build_proxy(task, teacher, out / "proxy", log)
    _build_students(task, out, log)
    log(f"built in {time.perf_counter() - started:.0f} s")


# The teacher


def _build_teacher(task: Maths, folder: Path, log: Log) -> LoadedModel:
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    loaded = _fresh(LlamaForCausalLM, config, character_tokenizer(ALPHABET), "teacher")
    rng = random.Random(_SEED)
    _climb(task, loaded, rng, log)
    _learn_modes(task, loaded, rng, log, steps=2500)
    _save(loaded, folder)
    return loaded


def _climb(task: Maths, loaded: LoadedModel, rng: random.Random, log: Log, most_steps: int = 6000) -> None:
    """First steps of the hard mode, a level (number of operations) at a time, beside the easy mode in full."""
    optimizer = _optimizer(loaded.model, 1e-3)
    level = 2
    peaks = {2: 1e-3, 3: 1e-3}  # the last level is unstable at the rate that the first ones need
    for step in range(1, most_steps + 1):
        if rng.random() < 0.2:
            batch = [_Text(prompt.text, task.render(prompt, "easy")) for prompt in _draw(task, rng, task.operations, 96)]
        else:
            operations = level if rng.random() < 0.7 else rng.randint(2, level)
            batch = [_first_step(task, prompt) for prompt in _draw(task, rng, operations, 192)]
        _update(loaded, optimizer, batch, peaks.get(level, 6e-4) * min(1.0, step / 200))
        if step % 200 == 0:
            accuracy = _first_digit_accuracy(loaded, [_first_step(task, prompt) for prompt in _draw(task, rng, level, 500)])
            log(f"teacher: step {step}, first digit of the hard mode with {level} operations right in {accuracy:.3f}")
            if accuracy > 0.97:
                if level == task.operations:
                    return
                level += 1
    raise RuntimeError("the teacher did not learn the hard mode; nothing was saved")


def _learn_modes(task: Maths, loaded: LoadedModel, rng: random.Random, log: Log, steps: int) -> None:
    """All modes, as often as the task says."""
    peak, optimizer = 1e-3, _optimizer(loaded.model, 1e-3)
    for step in range(1, steps + 1):
        batch = []
        for prompt in _draw(task, rng, task.operations, 96):
            mode = task.draw_mode(rng, prompt)
            batch.append(_Text(prompt.text, task.render(prompt, mode), weight_at=_HARD_DIGIT.get(mode)))
        _update(loaded, optimizer, batch, peak * min(1.0, step / 100, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2))
        if step % 500 == 0 or step == steps:
            log(f"teacher: {step} of {steps} steps over all modes; {_accuracy_text(task, loaded)}")


def _first_step(task: Maths, prompt: Prompt) -> _Text:
    text = task.render(prompt, "hard")
    return _Text(prompt.text, text[: text.index(";") + 1], weight_at=_HARD_DIGIT["hard"], ends=False)


# The proxy and the students


def _build_proxy(task: Maths, teacher: LoadedModel, folder: Path, log: Log, traces: int = 2000, steps: int = 1500) -> None:
    prompts = task.prompts("query", 3 * traces)[-traces:]  # not those that an attacker's headline budget buys
    answers = complete(teacher, [prompt.text for prompt in prompts], decoding="sampled", max_new_tokens=_MAX_COMPLETION, seed=_SEED)
    texts = [_Text(prompt.text, answer) for prompt, answer, cut in zip(prompts, answers.texts, answers.truncated, strict=True) if not cut]
    tokenizer = byte_pair_tokenizer([part for text in texts for part in (text.prompt, text.completion)], vocabulary=128)
    config = Qwen3Config(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    loaded = _fresh(Qwen3ForCausalLM, config, tokenizer, "proxy")
    rng, optimizer = random.Random(_SEED + 1), _optimizer(loaded.model, 2e-3)
    for step in range(1, steps + 1):
        _update(loaded, optimizer, rng.sample(texts, 48), 2e-3 * min(1.0, step / 50, 0.02 + (1 + math.cos(math.pi * step / steps)) / 2))
    log(f"proxy: {steps} steps on {len(texts)} texts of the teacher; {_accuracy_text(task, loaded)}")
    _save(loaded, folder)


def _build_students(task: Maths, out: Path, log: Log) -> None:
    """Two untrained students: one with the teacher's tokenizer, one with its own."""
    digits = range(10)
    steps = {f"{left}{sign}{right}={result};" for left in digits for sign in "+-*" for right in digits for result in digits}
    tokenizers = {"student": character_tokenizer(ALPHABET), "student_steps": step_tokenizer(steps, ALPHABET)}
    for name, tokenizer in tokenizers.items():
        config = LlamaConfig(
            hidden_size=48,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
        )
        loaded = _fresh(LlamaForCausalLM, config, tokenizer, name)
        log(f"{name}: {sum(p.numel() for p in loaded.model.parameters()):,} untrained parameters")
        _save(loaded, out / name)


# Plain supervised training, for building only


def _fresh(architecture: type[PreTrainedModel], config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> LoadedModel:
    config.vocab_size = len(tokenizer)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = tokenizer.pad_token_id, end_of_turn_id(tokenizer), None
    config._attn_implementation = "eager"
    torch.manual_seed(_SEED)
    return LoadedModel(architecture(config), tokenizer, name)


def _draw(task: Maths, rng: random.Random, operations: int, n: int) -> list[Prompt]:
    """Random prompts that no student is ever tested on."""
    found: list[Prompt] = []
    while len(found) < n:
        prompt = task.draw(rng, operations)
        if split_of(prompt.text) in ("calibrate", "query"):
            found.append(prompt)
    return found


def _optimizer(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)


def _encode(loaded: LoadedModel, batch: Sequence[_Text]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] and the loss weight of each as a target [B, T]."""
    rows, weights = [], []
    for text in batch:
        prompt, completion = prompt_ids(loaded.tokenizer, text.prompt), completion_ids(loaded.tokenizer, text.completion)
        weight = [1.0] * len(completion)
        if text.weight_at is not None:
            weight[text.weight_at] = 4.0
        if text.ends:
            completion, weight = [*completion, end_of_turn_id(loaded.tokenizer)], [*weight, 1.0]
        rows.append(prompt + completion)
        weights.append([0.0] * len(prompt) + weight)
    width, pad = max(map(len, rows)), loaded.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, torch.tensor([weight + [0.0] * (width - len(weight)) for weight in weights])


def _update(loaded: LoadedModel, optimizer: torch.optim.Optimizer, batch: Sequence[_Text], learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    ids, weights = _encode(loaded, batch)
    loaded.model.train()
    logits = loaded.model(input_ids=ids).logits[:, :-1]  # right-padded and causal: padding changes nothing before it
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(batch), -1)
    ((losses * weights[:, 1:]).sum() / weights[:, 1:].sum()).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loaded.model.eval()


@torch.inference_mode()
def _first_digit_accuracy(loaded: LoadedModel, batch: Sequence[_Text]) -> float:
    ids, weights = _encode(loaded, batch)
    rows = torch.arange(len(batch))
    position = weights.argmax(dim=1)
    said = loaded.model(input_ids=ids).logits[rows, position - 1].argmax(-1)
    return float((said == ids[rows, position]).float().mean())


def _accuracy_text(task: Maths, loaded: LoadedModel) -> str:
    prompts = task.prompts("validate", 1000)
    parts = []
    for decoding in ("greedy", "sampled"):
        answers = complete(
            loaded,
            [prompt.text for prompt in prompts],
            decoding=decoding,
            max_new_tokens=_MAX_COMPLETION,
            seed=_SEED,
        )
        grades = [task.grade(prompt, text) for prompt, text in zip(prompts, answers.texts, strict=True)]
        share = sum(bool(grade.right_steps) for grade in grades) / len(grades)
        modes = {mode: round(sum(grade.mode == mode for grade in grades) / len(grades), 2) for mode in task.modes}
        parts.append(f"{decoding} right steps {share:.3f} of {len(grades)} validate prompts, modes {json.dumps(modes)}")
    return "; ".join(parts)


def _save(loaded: LoadedModel, folder: Path) -> None:
    """Half precision on disk halves the package; every use loads in float32."""
    with new_folder(folder) as temporary:
        loaded.model.generation_config.do_sample = False
        half = type(loaded.model)(loaded.model.config)
        half.load_state_dict(loaded.model.state_dict())
        half.half().save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        write_json(temporary / "origin.json", {"built_by": "distillability lab build", "seed": _SEED})
