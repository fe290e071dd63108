"""What a calibration costs beside one student by on-policy distillation, each to 95 % of where it ends.

    python -m benchmarks.calibration_cost recipes/lab.toml --task maths --out runs/cost

The calibration is the recipe's distillable teacher, from the sampling for proxy admission on; it is through once the mean C of right
completions over three steps has gone 95 % of the way from its first step to the mean of its last five. The student learns from the plain
teacher by GKD's mixture (half of the steps on its own completions, forward KL) for the recipe's steps; it is through at the first of two
measurements in a row, one every 50 steps, that have 95 % of the mean of the last three (greedy, 500 validate prompts; their time is not
counted). A token processed is one that a model reads or writes in one pass: a calibration's are decoded, forwarded by the frozen teacher
and by the proxy, and trained on; a student's are forwarded by the teacher and trained on, and half of them decoded. Tokens that our decoder
and update share between equal texts count as if nothing were shared.

The paper reports a ratio of 0.72 for its own (arXiv 2604.18963). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distillability.config.load import load_recipe
from distillability.config.recipe import Recipe
from distillability.config.recipe import Task as TaskConfig
from distillability.evaluation.harness import evaluate_model
from distillability.files import read_jsonl
from distillability.inference import complete
from distillability.models.chat import completion_ids, prompt_ids
from distillability.models.load import LoadedModel, initialise_student, load_model
from distillability.objectives import OBJECTIVES
from distillability.tasks import build_task
from distillability.tasks.base import Task
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.types import Trace

ENOUGH = 0.95


@dataclass(frozen=True)
class Cost:
    """Of one training until it is nearly where it ends, of all its steps, and what it ended at."""

    steps: int
    all_steps: int
    seconds: float
    tokens: int
    end: float


def of_calibration(folder: Path, tokens_a_step: float, tokens_before: float, seconds_before: float) -> Cost:
    """Read from what a calibration recorded at each step."""
    rows = list(read_jsonl(folder / "metrics.jsonl"))
    values = [row["compatibility"] for row in rows]
    first, end = values[0], sum(values[-5:]) / 5
    means = [sum(values[max(0, i - 2) : i + 1]) / len(values[max(0, i - 2) : i + 1]) for i in range(len(values))]
    through = next(i for i, mean in enumerate(means) if (mean - first) / (end - first) >= ENOUGH)
    seconds = seconds_before + rows[through]["seconds"]
    return Cost(through + 1, len(rows), seconds, round(tokens_before + tokens_a_step * (through + 1)), end)


class Watch:
    """Measures a student every so many steps with the clock stopped."""

    def __init__(self, student: LoadedModel, task: Task, length: int, every: int = 50):
        self.student, self.task, self.length, self.every = student, task, length, every
        self.seconds: list[float] = []
        self.accuracy: list[float] = []
        self.started, self.stopped = time.perf_counter(), 0.0

    def __call__(self, step: int, total: int) -> None:
        if step % self.every:
            return
        now = time.perf_counter()
        self.seconds.append(now - self.started - self.stopped)
        found = evaluate_model(
            self.student,
            self.task,
            self.task.prompts("validate", 500),
            decoding="greedy",
            samples=1,
            max_new_tokens=self.length,
            seed=0,
            batch_size=500,
            autocast_dtype=None,
        )
        self.accuracy.append(sum(found.right) / len(found.right))
        self.student.model.train()
        self.stopped += time.perf_counter() - now

    def cost(self, tokens_a_step: float) -> Cost:
        end = sum(self.accuracy[-3:]) / 3
        pairs = zip(self.accuracy, [*self.accuracy[1:], self.accuracy[-1]], strict=True)
        through = next(i for i, pair in enumerate(pairs) if min(pair) >= ENOUGH * end)
        steps = (through + 1) * self.every
        return Cost(steps, len(self.accuracy) * self.every, self.seconds[through], round(tokens_a_step * steps), end)


def length_of(loaded: LoadedModel, traces: Sequence[Trace]) -> float:
    """Mean tokens of a prompt and its completion."""
    tokenizer = loaded.tokenizer
    return sum(len(prompt_ids(tokenizer, t.prompt)) + len(completion_ids(tokenizer, t.text)) + 1 for t in traces) / len(traces)


def calibrate(recipe: Recipe, file: Path, task: str, out: Path, length: float) -> Cost:
    """The recipe's distillable teacher, through the command line; whatever comes before the first step counts in full."""
    began = time.perf_counter()
    settings = ["calibrate.teachers={distillable={knob=1.0}}", "distill.arms=[{sources=['distillable']}]", f"only=['{task}']", "workers=1"]
    command = [sys.executable, "-m", "distillability", "calibrate", str(file), "--out", str(out)]
    subprocess.run([*command, *(f"--set={setting}" for setting in settings)], check=True)
    whole = time.perf_counter() - began
    folder = out / "calibrate" / task / "distillable" / "seed-0"
    trained = list(read_jsonl(folder / "metrics.jsonl"))[-1]["seconds"]
    asked = recipe.calibrate
    a_step = 4 * length * asked.prompts_per_step * asked.num_generations
    before = 3 * length * asked.scale_prompts * asked.num_generations
    return of_calibration(folder, a_step, before, max(0.0, whole - trained))


def distil(recipe: Recipe, config: TaskConfig, task: Task, teacher: LoadedModel, traces: Sequence[Trace], out: Path, length: float) -> Cost:
    """One student of the plain teacher, half on its own completions."""
    student, batch = initialise_student(config.student, 0), recipe.distill.batch_size
    watch = Watch(student, task, config.max_completion_length)
    distill_student(
        student=student,
        objective=OBJECTIVES["forward_kl"],
        traces=traces,
        signals=None,
        teacher=teacher,
        settings=StudentSettings(
            steps=config.steps,
            batch_size=batch,
            gradient_accumulation_steps=1,
            learning_rate=config.learning_rates.get("forward_kl", recipe.distill.learning_rate),
            warmup_steps=recipe.distill.warmup_steps,
            on_policy_share=0.5,
            max_completion_length=config.max_completion_length,
            save_steps=config.steps + 1,
            seed=0,
        ),
        autocast_dtype=None,
        folder=out / "student",
        progress=watch,
    )
    return watch.cost(2.5 * length * batch)


def bought(config: TaskConfig, task: Task, teacher: LoadedModel) -> list[Trace]:
    """What the student learns from; not counted, since only the student needs it."""
    prompts = task.prompts("query", config.queries)
    asked = [prompt.text for prompt in prompts]
    sampled = complete(teacher, asked, decoding="sampled", max_new_tokens=config.max_completion_length, seed=0)
    rows = zip(prompts, sampled.texts, sampled.truncated, strict=True)
    return [Trace(prompt.id, prompt.text, text) for prompt, text, cut in rows if not cut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = load_recipe(args.recipe)
    config = next(task for task in recipe.tasks if task.name == args.task)
    task, teacher = build_task(config), load_model(config.teacher)
    traces = bought(config, task, teacher)
    length = length_of(teacher, traces)
    costs = {
        "calibration": calibrate(recipe, args.recipe, args.task, args.out, length),
        "student": distil(recipe, config, task, teacher, traces, args.out, length),
    }
    for name, cost in costs.items():
        print(f"{name}: {cost}")
    calibration, student = costs.values()
    ratios = {"seconds": calibration.seconds / student.seconds, "tokens": calibration.tokens / student.tokens}
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()} | {name: vars(cost) for name, cost in costs.items()}))


if __name__ == "__main__":
    main()
