"""Ours against TRL at calibration, in one run, taking turns, at the same dtype.

    python -m benchmarks.calibration             several minutes
    python -m benchmarks.calibration --quick     a look: the lab's teacher alone, one round

The last line is one JSON object. Times are TRL's over ours, so more is better; memory is ours over TRL's.

* `step`: one whole step of GRPO with the calibration reward (task reward, C, K3 anchor) against `trl.GRPOTrainer` with the same reward,
  which forwards teacher and proxy itself, once for every distinct text. TRL is configured as well as its options allow here: the dtype
  under test, and whichever of these is fastest: checkpointing of activations off, the step in one micro-batch; the same in four;
  checkpointing on. `step_as_it_comes`: its defaults (bfloat16 autocast, checkpointing), all that defines the task left equal.
* `decode`: sampling the step's completions against `generate`, same prompts.
* `memory`: what a step needs beyond weights and optimiser state, against the most frugal of TRL's three.
* `limit`: for each part of our step, the least time that its operations (at the matrix rate measured here) or its bytes (at the memory
  bandwidth measured here) would take, over the time it took. Operations and bytes are those of all completions, as if none were equal.

Two shapes: the lab's teacher, 32 prompts × 8 completions; and a model of SmolLM2-135M's shape with random weights, 4 × 4 completions of 64
tokens, which never ends early. Both sides of every ratio draw completions of the same lengths (the lab's: in distribution).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, PrinterCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

import distillability.training  # sets what TRL reads when it is imported  # noqa: F401
from benchmarks.models import Size, random_llama
from benchmarks.timing import Stepper, alternate, peak_extra_memory
from distillability.config.recipe import Calibrate, Teacher
from distillability.inference import complete_ids
from distillability.inference.generate import _generate, decoding_dtype
from distillability.inference.likelihood import Scorer
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.chat import prompt_ids
from distillability.models.load import LoadedModel, load_model
from distillability.tasks.base import Task, split_of
from distillability.tasks.maths import Maths
from distillability.training.calibrate_teacher import Calibration, _grpo_config, calibration_trainer
from distillability.training.calibration_trainer import StepRecord
from distillability.training.checkpoints import MetricsFile
from distillability.training.reward import CompositeReward
from distillability.types import Grade, Prompt, Split

THREADS = int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
CONFIGURED = ("trl", "trl_in_four", "trl_checkpointed")
SIDES = ("ours", *CONFIGURED, "trl_as_it_comes")
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


# What is calibrated -----------------------------------------------------------------------------------------------------------------


class Even(Task):
    """Right is an even sum of bytes: about half of what a random model says."""

    name, chance = "even", 0.5

    def stream(self, split: Split) -> Iterator[Prompt]:
        rng = random.Random(0)
        while True:
            text = "".join(rng.choices(LETTERS, k=rng.choice((24, 32, 48))))
            if split_of(text) == split:
                yield Prompt(id=text, text=text, answer="")

    def grade(self, prompt: Prompt, text: str) -> Grade:
        return Grade(right=sum(text.encode()) % 2 == 0)


@dataclass(frozen=True)
class Shape:
    """One setting: a model (the lab's teacher where it has no size) and the completions of a step."""

    name: str
    prompts: int
    generations: int
    length: int
    size: Size | None = None

    @property
    def task(self) -> Task:
        return Maths() if self.size is None else Even()

    @property
    def settings(self) -> Calibrate:
        return Calibrate(
            prompts_per_step=self.prompts,
            num_generations=self.generations,
            max_steps=1000,
            learning_rate=1e-9,  # nobody drifts
            anchor_budget=None,
            save_steps=10_000,
        )

    def teacher(self, folder: Path) -> str:
        return "lab:maths/teacher" if self.size is None else str(random_model(folder / self.name, self.size))

    def proxy(self, folder: Path) -> str:
        return "lab:maths/proxy" if self.size is None else str(small_model(folder / "proxy"))


SHAPES = {"lab": Shape("lab", 32, 8, 44), "smollm": Shape("smollm", 4, 4, 64, Size(49_152, 576, 30, 9, 3))}


def random_model(folder: Path, size: Size) -> Path:
    """A Llama with random weights; each of its tokens is four letters, so that texts survive encoding."""
    if folder.is_dir():
        return folder
    rng, special = random.Random(0), ["<pad>", "<end>", "<user>", "<assistant>"]
    words: dict[str, None] = {}
    while len(words) < size.vocabulary - len(special):
        words["".join(rng.choices(LETTERS, k=4))] = None
    core = Tokenizer(WordLevel({token: index for index, token in enumerate([*special, *words])}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(".{4}"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", additional_special_tokens=["<user>", "<assistant>"]
    )
    tokenizer.chat_template = character_tokenizer(LETTERS).chat_template
    _save(folder, tokenizer, size)
    return folder


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast, size: Size) -> None:
    random_llama(tokenizer, size, intermediate=8 * size.hidden // 3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def small_model(folder: Path) -> Path:
    """A proxy of another tokenizer: characters."""
    if not folder.is_dir():
        tokenizer = character_tokenizer(LETTERS)
        _save(folder, tokenizer, Size(len(tokenizer), 64, 2, 2, 2))
    return folder


# The contestants --------------------------------------------------------------------------------------------------------------------


def build(side: str, shape: Shape, dtype: str, folder: str) -> GRPOTrainer:
    """A trainer before its first step, of one of `SIDES`."""
    home = Path(folder)
    loaded, proxy = load_model(shape.teacher(home)), load_model(shape.proxy(home))
    prompts = shape.task.prompts("calibrate", 64 * shape.prompts)
    shared: dict[str, Any] = {"task": shape.task, "settings": shape.settings, "teacher": Teacher(knob=-1.0), "scale": 1.0}
    output = Path(tempfile.mkdtemp(dir=home))
    if side == "ours":
        trainer: GRPOTrainer = calibration_trainer(
            Calibration(
                loaded=loaded,
                proxies=[proxy],
                prompts=prompts,
                max_completion_length=shape.length,
                seed=0,
                autocast_dtype=DTYPES[dtype],
                folder=output,
                **shared,
            )
        )
        trainer.metrics_file = MetricsFile(output / "metrics.jsonl")
        trainer.add_callback(StepRecord(trainer, shape.settings, lambda step, total: None))
    else:
        trainer = _of_trl(loaded, proxy, prompts, shape, DTYPES[dtype], output, shared, side)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _of_trl(
    loaded: LoadedModel,
    proxy: LoadedModel,
    prompts: list[Prompt],
    shape: Shape,
    dtype: torch.dtype | None,
    output: Path,
    shared: dict[str, Any],
    side: str,
) -> GRPOTrainer:
    """TRL with the same reward, which knows nothing of the anchor's reference and forwards the teacher itself."""
    reward = CompositeReward(
        policy_tokenizer=loaded.tokenizer,
        proxies=[Scorer(proxy.model, proxy.tokenizer, autocast_dtype=dtype)],
        reference=None,
        prompts={prompt.id: prompt for prompt in prompts},
        **shared,
    )
    args = _grpo_config(shape.settings, loaded, shape.length, 0, dtype, output)
    if side == "trl_in_four":
        args = _grpo_config(_in_four(shape.settings), loaded, shape.length, 0, dtype, output)
    if side in ("trl_checkpointed", "trl_as_it_comes"):
        default = GRPOConfig(output_dir=str(output), use_cpu=True, report_to="none")
        args.activation_checkpointing = args.gradient_checkpointing = default.activation_checkpointing
    if side == "trl_as_it_comes":
        args.bf16 = default.bf16
    rows = [{"prompt": [{"role": "user", "content": prompt.text}], "prompt_id": prompt.id} for prompt in prompts]
    trainer = GRPOTrainer(
        model=loaded.model, reward_funcs=[reward], args=args, train_dataset=Dataset.from_list(rows), processing_class=loaded.tokenizer
    )
    reward.reference = Scorer(trainer.ref_model, loaded.tokenizer, autocast_dtype=dtype)
    return trainer


def _in_four(settings: Calibrate) -> Calibrate:
    rows = settings.prompts_per_step * settings.num_generations
    return settings.model_copy(update={"per_device_train_batch_size": rows // 4})


def one_step(side: str, shape: Shape, dtype: str, folder: str) -> Callable[[], None]:
    """A step to be measured; the one before it, which makes the optimiser's state, is done."""
    torch.set_num_threads(THREADS)
    stepper = Stepper(build(side, shape, dtype, folder))
    stepper()
    return stepper


# Measurements -----------------------------------------------------------------------------------------------------------------------


def compare(shape: Shape, dtype: str, folder: str, rounds: int) -> dict[str, Any]:
    """Ratios of the whole step and of decoding."""
    steppers = {side: Stepper(build(side, shape, dtype, folder)) for side in SIDES}
    seconds = alternate(steppers, rounds)
    for stepper in steppers.values():
        stepper.close()
    loaded = load_model(shape.teacher(Path(folder)))
    asked = [prompt for prompt in shape.task.prompts("calibrate", shape.prompts) for _ in range(shape.generations)]
    ids = [prompt_ids(loaded.tokenizer, prompt.text) for prompt in asked]
    decoding = alternate(
        {
            "ours": lambda: complete_ids(loaded, ids, decoding="sampled", max_new_tokens=shape.length, autocast_dtype=DTYPES[dtype]),
            "trl": lambda: _generate(loaded, ids, "sampled", shape.length, DTYPES[dtype]),
        },
        2 * rounds,
    )
    print(f"{shape.name} {dtype}: step {_in_ms(seconds)}; decoding {_in_ms(decoding)}", flush=True)
    return {
        "step": min(seconds[side] for side in CONFIGURED) / seconds["ours"],
        "step_as_it_comes": seconds["trl_as_it_comes"] / seconds["ours"],
        "decode": decoding["trl"] / decoding["ours"],
        "seconds": seconds,
    }


def _in_ms(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())


def parts_of_a_step(shape: Shape, dtype: str, folder: str) -> dict[str, float]:
    """Seconds of each part of our step, the last of three."""
    trainer = build("ours", shape, dtype, folder)
    seconds: dict[str, float] = {}
    for name, method in {
        "decode": "_generate",
        "reference": "_get_per_token_logps_and_entropies",
        "rewards": "_calculate_rewards",
        "update": "training_step",
    }.items():
        setattr(trainer, method, _timed(getattr(trainer, method), name, seconds))
    stepper = Stepper(trainer)
    for _ in range(3):
        seconds.clear()
        stepper()
    stepper.close()
    seconds["update"] -= seconds["decode"] + seconds["reference"] + seconds["rewards"]
    return seconds


def _timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started

    return wrapped


def limits(shape: Shape, dtype: str, folder: str) -> dict[str, Any]:
    """How near each part of our step is to what this machine could do at best."""
    seconds = parts_of_a_step(shape, dtype, folder)
    loaded = load_model(shape.teacher(Path(folder)))
    weights = sum(parameter.numel() for parameter in loaded.model.parameters())
    config = loaded.model.config
    n_rows = shape.prompts * shape.generations
    prompt = len(prompt_ids(loaded.tokenizer, shape.task.prompts("calibrate", 1)[0].text))
    tokens = n_rows * (prompt + shape.length)
    width = 2 if decoding_dtype(loaded, DTYPES[dtype]) is torch.bfloat16 else 4
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    bytes_read = width * shape.length * (weights + n_rows * cached * (prompt + shape.length / 2))
    bandwidth, rate = memory_bandwidth(), matrix_rate(DTYPES[dtype] or torch.float32)
    decode_rate = matrix_rate(torch.bfloat16 if width == 2 else torch.float32)
    least = {
        "decode": max(bytes_read / bandwidth, 2 * weights * n_rows * shape.length / decode_rate),
        "reference": 2 * weights * tokens / rate,
        "update": 6 * weights * tokens / rate,
    }
    print(f"{shape.name} {dtype}: parts {_in_ms(seconds)}; at least {_in_ms(least)}", flush=True)
    return {part: least[part] / seconds[part] for part in least} | {"seconds": seconds}


def memory_bandwidth() -> float:
    """Bytes read a second, from a sum over a buffer larger than any cache."""
    buffer = torch.ones(1 << 27)
    return _best(lambda: buffer.sum(), buffer.numel() * 4)


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large product."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return _best(lambda: a @ b, 2 * 2048**3)


def _best(call: Callable[[], Any], amount: float, times: int = 5) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(amount / (time.perf_counter() - started))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    shapes, rounds = (["lab"], 1) if args.quick else (args.shapes, args.rounds)
    found: dict[str, Any] = {"limit": {}}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        for shape in (SHAPES[name] for name in shapes):
            by_dtype = {dtype: compare(shape, dtype, folder, rounds) for dtype in args.dtypes}
            fastest = min(by_dtype, key=lambda dtype: by_dtype[dtype]["seconds"]["ours"])
            times = {(side, dtype): by_dtype[dtype]["seconds"][side] for side in CONFIGURED for dtype in args.dtypes}
            theirs, their_dtype = min(times, key=lambda key: times[key])
            best = times[theirs, their_dtype] / by_dtype[fastest]["seconds"]["ours"]
            peak = {side: peak_extra_memory(one_step, side, shape, fastest, folder) for side in ("ours", *CONFIGURED)}
            found[shape.name] = {
                **by_dtype[fastest],
                "dtype": fastest,
                "step_each_in_its_faster_dtype": best,
                "fastest_trl": f"{theirs} {their_dtype}",
                "memory": peak["ours"] / min(peak[side] for side in CONFIGURED),
                "memory_bytes": peak,
                "by_dtype": by_dtype,
            }
            found["limit"][shape.name] = limits(shape, fastest, folder)
    found["dtype"] = {shape: found[shape]["dtype"] for shape in shapes}
    print(json.dumps(_rounded(found)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
