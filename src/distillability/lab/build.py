"""Building the lab's models from fixed seeds.

The teacher must answer in every mode, and the hard modes are hard: the first value in them is the result of all steps but the last.
From scratch that value stays at chance for a long time, because it is few tokens of many and rests on a circuit several lookups deep. So
the teacher climbs: first steps of shorter chains, one step more each time the last level is mastered, then all modes in full.

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
from itertools import product
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
from distillability.inference import complete
from distillability.lab.tokenizers import (
    byte_pair_tokenizer,
    character_tokenizer,
    word_tokenizer,
)
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.load import LoadedModel
from distillability.tasks import CrossedModes, Instructions, Knowledge, Maths
from distillability.tasks.base import split_of
from distillability.tasks.instructions import LETTERS, OPERATIONS
from distillability.types import Prompt

__all__ = ["FAMILIES", "Family", "build"]

_SEED = 20260418
Log = Callable[[str], None]


@dataclass(frozen=True)
class Family:
    """What of the lab's models is a family's own: its task, and the vocabulary of the student that has its own.

    Attributes:
        max_completion_length: the longest right answer, its end of turn, and a little more.
        words: that student's name, its tokens beside single characters, and the pattern that finds them in a text.
        dtype: what the teacher is trained in by autocast; float32 throughout where None.
    """

    task: CrossedModes
    max_completion_length: int
    words: tuple[str, Sequence[str], str]
    dtype: torch.dtype | None = None


def _maths_words() -> list[str]:
    """Operations of the prompt, and whole steps without their numbers."""
    digits = range(10)
    steps = {f"{left}{sign}{right}={result};" for left in digits for sign in "+-*" for right in digits for result in digits}
    return sorted({step[1:3] for step in steps}) + sorted(steps)


FAMILIES: dict[str, Family] = {
    "maths": Family(Maths(), 44, ("student_steps", _maths_words(), r"\d[+\-*]\d=\d;|[+\-*]\d|.")),
    "knowledge": Family(Knowledge(), 28, ("student_elements", Knowledge().elements, "[A-Z][a-z]|.")),
    "instructions": Family(Instructions(), 26, ("student_pairs", [a + b for a, b in product(LETTERS, OPERATIONS)], "[a-t][A-Z]|.")),
}


@dataclass(frozen=True)
class _Text:
    """A prompt, its completion, which part of it weighs more in the loss, and whether the end of turn belongs to it."""

    prompt: str
    completion: str
    heavy: tuple[int, int] | None = None
    ends: bool = True


def build(family: str, out: Path, log: Log = print) -> None:
    """Build all lab models of a family into `out/<name>`, ordinary Hugging Face folders.

    Raises:
        UserError: there is no such family.
    """
    if family not in FAMILIES:
        raise UserError.single("--family", f"there is no lab family {family!r}", f"the families are: {', '.join(FAMILIES)}")
    torch.use_deterministic_algorithms(True)
    chosen = FAMILIES[family]
    started = time.perf_counter()
    teacher = _build_teacher(chosen, out / "teacher", log)
    _build_proxy(chosen, teacher, out / "proxy", log)
    _build_students(chosen, out, log)
    log(f"built in {time.perf_counter() - started:.0f} s")


# The teacher


def _build_teacher(family: Family, folder: Path, log: Log) -> LoadedModel:
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,  # room for demonstrations
        tie_word_embeddings=True,
    )
    loaded = _fresh(LlamaForCausalLM, config, character_tokenizer(family.task.alphabet), "teacher")
    rng = random.Random(_SEED)
    _climb(family, loaded, rng, log)
    _learn_modes(family, loaded, rng, log, steps=2500)
    _save(loaded, folder)
    return loaded


def _climb(family: Family, loaded: LoadedModel, rng: random.Random, log: Log, most_steps: int = 6000) -> None:
    """First steps of the hard mode, a level (depth of the chain) at a time, beside the easy mode in full.

    Where the teacher is to answer without steps too, answers of chains one shorter go with each level, since as much is hidden in them.
    """
    task, optimizer = family.task, _optimizer(loaded.model, 1e-3)
    level, top = 2, task.depth + ("answer_only" in task.modes)
    for step in range(1, most_steps + 1):
        if rng.random() < 0.2:
            batch = [_Text(prompt.text, task.render(prompt, "easy")) for prompt in _draw(task, rng, task.depth, 96)]
        else:
            depth = level if rng.random() < 0.7 else rng.randint(2, level)
            batch = _level(task, rng, depth, 192)
        peak = 1e-3 if level < task.depth else 6e-4  # the last level is unstable at the rate that the first ones need
        _update(loaded, optimizer, batch, peak * min(1.0, step / 200), family.dtype)
        if step % 200 == 0:
            accuracy = _hidden_value_accuracy(loaded, _level(task, rng, level, 500))
            log(f"teacher: step {step}, first value with {level - 1} steps hidden right in {accuracy:.3f}")
            if accuracy > 0.97:
                if level == top:
                    return
                level += 1
    raise RuntimeError("the teacher did not learn the hard mode; nothing was saved")


def _learn_modes(family: Family, loaded: LoadedModel, rng: random.Random, log: Log, steps: int) -> None:
    """All modes, as often as the task says."""
    task = family.task
    peak, optimizer = 1e-3, _optimizer(loaded.model, 1e-3)
    for step in range(1, steps + 1):
        batch = []
        for prompt in _draw(task, rng, task.depth, 96):
            mode = task.draw_mode(rng, prompt)
            batch.append(_Text(prompt.text, task.render(prompt, mode), heavy=task.hidden_span(mode)))
        share = min(1.0, step / 100, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        _update(loaded, optimizer, batch, peak * share, family.dtype)
        if step % 500 == 0 or step == steps:
            log(f"teacher: {step} of {steps} steps over all modes; {_accuracy_text(family, loaded)}")


def _level(task: CrossedModes, rng: random.Random, level: int, n: int) -> list[_Text]:
    """Texts whose first value hides `level` - 1 steps."""
    span = task.hidden_span("hard")
    prompts = _draw(task, rng, min(level, task.depth), n)
    texts = [_Text(prompt.text, task.first_hard_step(prompt), heavy=span, ends=False) for prompt in prompts]
    if "answer_only" not in task.modes:
        return texts
    span = task.hidden_span("answer_only")
    answers = [_Text(prompt.text, task.render(prompt, "answer_only"), heavy=span) for prompt in _draw(task, rng, level - 1, n // 2)]
    return texts[: n - n // 2] + answers


# The proxy and the students


def _build_proxy(family: Family, teacher: LoadedModel, folder: Path, log: Log, traces: int = 2000, steps: int = 1500) -> None:
    prompts = family.task.prompts("query", 3 * traces)[-traces:]  # not those that an attacker's headline budget buys
    asked, longest = [prompt.text for prompt in prompts], family.max_completion_length
    answers = complete(teacher, asked, decoding="sampled", max_new_tokens=longest, seed=_SEED)
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
    log(f"proxy: {steps} steps on {len(texts)} texts of the teacher; {_accuracy_text(family, loaded)}")
    _save(loaded, folder)


def _build_students(family: Family, out: Path, log: Log) -> None:
    """Two untrained students: one with the teacher's tokenizer, one with its own."""
    alphabet, (own, words, pattern) = family.task.alphabet, family.words
    tokenizers = {"student": character_tokenizer(alphabet), own: word_tokenizer(words, alphabet, pattern)}
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


def _draw(task: CrossedModes, rng: random.Random, depth: int, n: int) -> list[Prompt]:
    """Random prompts that no student is ever tested on."""
    found: list[Prompt] = []
    while len(found) < n:
        prompt = task.draw(rng, depth)
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
        if text.heavy is not None:  # in characters, which are the teacher's tokens
            start, end = text.heavy
            weight[start:end] = [4.0] * (end - start)
        if text.ends:
            completion, weight = [*completion, end_of_turn_id(loaded.tokenizer)], [*weight, 1.0]
        rows.append(prompt + completion)
        weights.append([0.0] * len(prompt) + weight)
    width, pad = max(map(len, rows)), loaded.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, torch.tensor([weight + [0.0] * (width - len(weight)) for weight in weights])


def _update(
    loaded: LoadedModel,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[_Text],
    learning_rate: float,
    dtype: torch.dtype | None = None,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    ids, weights = _encode(loaded, batch)
    loaded.model.train()
    with torch.autocast(loaded.device.type, dtype, enabled=dtype is not None):
        logits = loaded.model(input_ids=ids).logits[:, :-1].float()  # right-padded and causal: padding changes nothing before it
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(batch), -1)
    ((losses * weights[:, 1:]).sum() / weights[:, 1:].sum()).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loaded.model.eval()


@torch.inference_mode()
def _hidden_value_accuracy(loaded: LoadedModel, batch: Sequence[_Text]) -> float:
    """Share of texts whose heavy part is said right, given what is before each of its tokens."""
    ids, weights = _encode(loaded, batch)
    said = loaded.model(input_ids=ids).logits[:, :-1].argmax(-1)
    right = (said == ids[:, 1:]) | (weights[:, 1:] <= 1.0)
    return float(right.all(dim=1).float().mean())


def _accuracy_text(family: Family, loaded: LoadedModel) -> str:
    task, prompts = family.task, family.task.prompts("validate", 1000)
    parts = []
    for decoding in ("greedy", "sampled"):
        answers = complete(
            loaded,
            [prompt.text for prompt in prompts],
            decoding=decoding,
            max_new_tokens=family.max_completion_length,
            seed=_SEED,
        )
        grades = [task.grade(prompt, text) for prompt, text in zip(prompts, answers.texts, strict=True)]
        share = sum(bool(grade.right_steps) or (grade.right and grade.mode == "answer_only") for grade in grades) / len(grades)
        modes = {mode: round(sum(grade.mode == mode for grade in grades) / len(grades), 2) for mode in task.modes}
        parts.append(f"{decoding} all right {share:.3f} of {len(grades)} validate prompts, modes {json.dumps(modes)}")
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
