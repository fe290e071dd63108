"""Ours against TRL at distillation, in one run, taking turns.

    python -m benchmarks.distillation            several minutes
    python -m benchmarks.distillation --quick    a look, under a minute on a free machine

The last line is one JSON object. Times are TRL's over ours, so more is better; memory is ours over TRL's. Of a step each side has the
dtype of autocast that is faster for it here, TRL *as it comes* its own default (bfloat16, checkpointing); `same_dtype` holds the lowest of
the ratios at one dtype on both sides.

* `on_policy_vs_trl`: a step on the student's own completions by reverse KL, against `trl.DistillationTrainer` with activation checkpointing
  off, since nothing here lacks memory; `on_policy_vs_trl_as_it_comes` against its defaults.
* `on_policy_vs_gkd`, `off_policy_vs_gkd`: the same by JSD against `trl.experimental.gkd.GKDTrainer` as it comes, all but lengths at its
  default. Off-policy both ask the teacher at every step; `off_policy_recorded_vs_gkd` is our default, which asks it once a trace.
* `loss_time_49k`, `loss_memory_49k`: projection, reverse KL and backward pass of 8 × 128 positions of which 649 count, 576 wide, vocabulary
  49,152, against the loss inside `trl.DistillationTrainer`. The gradient of the head counts as memory on both sides. Float32 both.
* `loss_memory_262k_over_32k`: our own memory at a vocabulary of 262,144 over that at 32,768, apart from the gradient of the head.

Both sides draw completions of one length: the models are random and give no mass to special tokens, so that none ends early.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer
from transformers.utils import logging as transformers_logging

import distillability.training  # sets what TRL reads when it is imported  # noqa: F401
from benchmarks.models import Size, random_llama
from benchmarks.timing import Stepper, alternate, peak_extra_memory
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.load import load_model
from distillability.objectives import OBJECTIVES
from distillability.ops.projection import projected_sum, projector
from distillability.tasks.maths import Maths
from distillability.training.distill_student import StudentSettings, student_trainer
from distillability.training.teacher_signals import record_signals
from distillability.types import Trace

BATCH, LENGTH, STEPS, RATE = 32, 48, 10_000, 1e-9  # a rate at which nobody drifts; more steps than anybody takes
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
Trainers = dict[str, Callable[[], Trainer]]


# Models and texts -------------------------------------------------------------------------------------------------------------------


def endless_model(folder: Path, *, layers: int, width: int, seed: int) -> Path:
    """A random Llama of the lab's shape that never says a special token.

    One dimension of the residual stream is a constant that no layer writes to; the head reads it with a large negative weight.
    """
    tokenizer = character_tokenizer(Maths().alphabet)
    model = random_llama(tokenizer, Size(len(tokenizer), width, layers, 4, 4), seed=seed, tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.all_special_ids, 0] = -100.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def traces(n: int) -> list[Trace]:
    """Random texts of one length, so that an off-policy batch is as long as an on-policy one."""
    rng = random.Random(0)
    letters = [letter for letter in Maths().alphabet if letter.strip()]
    return [Trace(prompt.id, prompt.text, "".join(rng.choices(letters, k=LENGTH - 1))) for prompt in Maths().prompts("query", n)]


# Trainers ---------------------------------------------------------------------------------------------------------------------------


class Contest:
    """The trainers of both sides, each with models of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.student = endless_model(folder / "student", layers=2, width=48, seed=1)
        self.teacher = endless_model(folder / "teacher", layers=4, width=128, seed=2)
        self.traces = traces(16 * BATCH)

    def ours(self, objective: str, dtype: str, *, on_policy: bool, recorded: bool = False) -> Trainer:
        teacher = load_model(self.teacher)
        settings = StudentSettings(
            steps=STEPS,
            batch_size=BATCH,
            gradient_accumulation_steps=1,
            learning_rate=RATE,
            warmup_steps=0,
            on_policy_share=float(on_policy),
            max_completion_length=LENGTH,
            save_steps=STEPS,
            seed=0,
        )
        signals = record_signals(teacher, self.traces) if recorded else None
        folder = self.folder / f"ours-{objective}-{dtype}-{on_policy}-{recorded}"
        student = load_model(self.student)
        return student_trainer(student, OBJECTIVES[objective], self.traces, signals, teacher, settings, DTYPES[dtype], folder)

    def distillation_trainer(self, **changes: Any) -> Trainer:
        """As it comes where nothing is changed."""
        from trl import DistillationConfig, DistillationTrainer

        student, teacher = load_model(self.student), load_model(self.teacher)
        arguments = DistillationConfig(**self._arguments(f"trl-{changes}"), max_completion_length=LENGTH, beta=1.0, **changes)
        rows = [{"prompt": [{"role": "user", "content": trace.prompt}]} for trace in self.traces]
        return DistillationTrainer(
            model=student.model,
            teacher_model=teacher.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=student.tokenizer,
        )

    def gkd(self, *, on_policy: bool, **changes: Any) -> Trainer:
        """As it comes where nothing is changed."""
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        student, teacher = load_model(self.student), load_model(self.teacher)
        arguments = GKDConfig(**self._arguments(f"gkd-{on_policy}-{changes}"), max_new_tokens=LENGTH, lmbda=float(on_policy), **changes)
        rows = [
            {"messages": [{"role": "user", "content": trace.prompt}, {"role": "assistant", "content": trace.text}]} for trace in self.traces
        ]
        return GKDTrainer(
            model=student.model,
            teacher_model=teacher.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=student.tokenizer,
        )

    def contestants(self) -> Trainers:
        """Everybody, by task, side and dtype."""
        found: Trainers = {}
        for dtype in DTYPES:
            half = dtype == "bfloat16"
            found |= {
                f"on_policy ours for trl {dtype}": partial(self.ours, "reverse_kl", dtype, on_policy=True),
                f"on_policy trl {dtype}": partial(self.distillation_trainer, gradient_checkpointing=False, bf16=half),
                f"on_policy ours for gkd {dtype}": partial(self.ours, "jsd", dtype, on_policy=True),
                f"on_policy gkd {dtype}": partial(self.gkd, on_policy=True, bf16=half),
                f"off_policy ours for gkd {dtype}": partial(self.ours, "jsd", dtype, on_policy=False),
                f"off_policy gkd {dtype}": partial(self.gkd, on_policy=False, bf16=half),
            }
        return found | {
            "on_policy trl as it comes": self.distillation_trainer,
            "on_policy gkd as it comes": partial(self.gkd, on_policy=True),
            "off_policy gkd as it comes": partial(self.gkd, on_policy=False),
            "off_policy ours for gkd recorded": partial(self.ours, "jsd", "float32", on_policy=False, recorded=True),
        }

    def _arguments(self, name: str) -> dict[str, Any]:
        """What has to be said, or would make TRL slower for no reason of its own; the rest is its default."""
        return {
            "output_dir": str(self.folder / name),
            "per_device_train_batch_size": BATCH,
            "max_steps": STEPS,
            "learning_rate": RATE,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "save_strategy": "no",
            "logging_steps": STEPS,
            "report_to": "none",
            "disable_tqdm": True,
        }


@contextmanager
def tokens_learnt_from(trainers: dict[str, Trainer]) -> Iterator[dict[str, list[int]]]:
    """Counts what every trainer's loss is made of, to be sure that all do the same work."""
    seen: dict[str, list[int]] = {name: [] for name in trainers}
    for name, trainer in trainers.items():
        compute_loss = trainer.compute_loss

        def counted(model: Any, inputs: Any, *args: Any, _inner: Any = compute_loss, _seen: list[int] = seen[name], **kwargs: Any) -> Any:
            _seen.append(int((inputs["labels"] != -100).sum() if "labels" in inputs else inputs["completion_mask"].sum()))
            return _inner(model, inputs, *args, **kwargs)

        trainer.compute_loss = counted  # type: ignore[method-assign]
    yield seen
    expected = BATCH * LENGTH
    wrong = {name: counts for name, counts in seen.items() if any(count != expected for count in counts)}
    if wrong:
        raise RuntimeError(f"not the same work: {expected} tokens a step were meant, and these learnt from {wrong}")


def step_seconds(contestants: Trainers, rounds: int) -> dict[str, float]:
    """Median seconds of one optimiser step of each, taking turns."""
    trainers = {name: build() for name, build in contestants.items()}
    for trainer in trainers.values():
        trainer.remove_callback(PrinterCallback)
    with tokens_learnt_from(trainers):
        steppers = {name: Stepper(trainer) for name, trainer in trainers.items()}
        seconds = alternate(steppers, rounds, warmup=2)
        for stepper in steppers.values():
            stepper.close()
    return seconds


# The loss alone ---------------------------------------------------------------------------------------------------------------------


def loss_case(vocabulary: int) -> tuple[Any, ...]:
    """Hidden states of student and teacher, their heads, the mask of positions that count, and the targets."""
    torch.manual_seed(0)
    student = torch.randn(8, 128, 576, requires_grad=True)
    teacher = torch.randn(8, 128, 576)
    heads = [torch.nn.Linear(576, vocabulary, bias=False) for _ in range(2)]
    heads[1].requires_grad_(False)
    mask = torch.zeros(8 * 128, dtype=torch.bool)
    mask[torch.randperm(8 * 128)[:649]] = True
    return student, teacher, *heads, mask.view(8, 128), torch.randint(vocabulary, (649,))


def our_loss(vocabulary: int) -> Callable[[], float]:
    """The reverse KL of one batch and its backward pass, as students are trained."""

    def total(student: torch.Tensor, teacher: torch.Tensor, head: Any, of_teacher: Any, mask: torch.Tensor, targets: Any) -> torch.Tensor:
        asked, project = teacher[mask], projector(of_teacher)

        def loss(logits: torch.Tensor, rows: slice) -> torch.Tensor:
            with torch.no_grad():
                said = project(asked[rows])
            return OBJECTIVES["reverse_kl"](student_logits=logits, teacher_logits=said, target_ids=targets[rows])

        return projected_sum(student[mask], head, loss) / len(targets)

    return _with_backward(total, vocabulary)


def trl_loss(vocabulary: int) -> Callable[[], float]:
    """The same as `trl.DistillationTrainer` computes it."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def total(student: torch.Tensor, teacher: torch.Tensor, head: Any, of_teacher: Any, mask: torch.Tensor, _: Any) -> torch.Tensor:
        return _chunked_divergence_loss(student, teacher, head.weight, of_teacher.weight, mask, 1.0)[0]

    return _with_backward(total, vocabulary)


def _with_backward(total: Callable[..., torch.Tensor], vocabulary: int) -> Callable[[], float]:
    """The loss of a case and its backward pass, after one on a small vocabulary so that libraries are loaded."""

    def call(*tensors: Any) -> float:
        student, _, head, *_ = tensors
        student.grad = head.weight.grad = None
        found = total(*tensors)
        found.backward()
        return float(found.detach())

    call(*loss_case(64))
    case = loss_case(vocabulary)
    return lambda: call(*case)


# What is printed --------------------------------------------------------------------------------------------------------------------


def measure(quick: bool) -> dict[str, Any]:
    """Every number of the last line, each with its parts on the way."""
    found: dict[str, Any] = {"same_dtype": {}}
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder))
        seconds = step_seconds(contest.contestants(), 2 if quick else 25)
    for task, theirs in (("on_policy", "trl"), ("on_policy", "gkd"), ("off_policy", "gkd")):
        found |= _ratios(seconds, task, theirs, found["same_dtype"])
    found["off_policy_recorded_vs_gkd"] = seconds["off_policy gkd as it comes"] / seconds["off_policy ours for gkd recorded"]

    calls = {"ours": our_loss(49_152), "trl": trl_loss(49_152)}
    values = [call() for call in calls.values()]
    if abs(values[0] - values[1]) > 1e-3 * abs(values[1]):
        raise RuntimeError(f"not the same loss: {values}")
    of_loss = alternate(calls, 1 if quick else 7, warmup=0)
    print("loss at a vocabulary of 49,152: " + _in_ms(of_loss), flush=True)
    found["loss_time_49k"] = of_loss["trl"] / of_loss["ours"]
    calls.clear()

    ours_bytes, trl_bytes = (peak_extra_memory(prepare, 49_152) for prepare in (our_loss, trl_loss))
    print(f"loss at a vocabulary of 49,152: ours +{ours_bytes / 1e6:.0f} MB, DistillationTrainer's +{trl_bytes / 1e6:.0f} MB", flush=True)
    found["loss_memory_49k"] = ours_bytes / trl_bytes
    small, large = (peak_extra_memory(our_loss, size) - 4 * 576 * size for size in (32_768, 262_144))
    print(f"apart from the head's gradient: at 32,768 +{small / 1e6:.0f} MB, at 262,144 +{large / 1e6:.0f} MB", flush=True)
    found["loss_memory_262k_over_32k"] = large / small
    return found


def _ratios(seconds: dict[str, float], task: str, theirs: str, same_dtype: dict[str, float]) -> dict[str, Any]:
    """Their time over ours, each side in its faster dtype, and against theirs as it comes; the lowest at one dtype goes to `same_dtype`."""
    ours, trl = ({dtype: seconds[f"{task} {side} {dtype}"] for dtype in DTYPES} for side in (f"ours for {theirs}", theirs))
    as_it_comes, best = seconds[f"{task} {theirs} as it comes"], min(ours.values())
    print(f"{task}: ours {_in_ms(ours)}; {theirs} {_in_ms(trl)}, as it comes {1000 * as_it_comes:.0f} ms", flush=True)
    name = f"{task}_vs_{theirs}"
    same_dtype[name] = min(trl[dtype] / ours[dtype] for dtype in DTYPES)
    if theirs == "gkd":
        return {name: as_it_comes / best}
    return {name: min(trl.values()) / best, f"{name}_as_it_comes": as_it_comes / best}


def _in_ms(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {name: _rounded(value) if isinstance(value, dict) else round(value, 3) for name, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a measurement")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    print(json.dumps(_rounded(measure(args.quick)) | {"threads": args.threads}))


if __name__ == "__main__":
    main()
