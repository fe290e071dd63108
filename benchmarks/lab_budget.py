"""How many traces and steps a student of easy steps needs, and which learning rate each objective wants; all on the validate split.

    python -m benchmarks.lab_budget queries --seeds 3
    python -m benchmarks.lab_budget steps --queries 2000
    python -m benchmarks.lab_budget rates --queries 2000 --steps 1000

The budget of the lab's recipes follows from the first two: Q = four times the smallest budget (over doublings) at which a student of
easy steps reaches 95 %, and twice the steps it needs at that Q. Nothing here looks at the test split or at a calibrated teacher.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from distillability.evaluation.harness import evaluate_model
from distillability.models.load import initialise_student, load_model
from distillability.objectives import OBJECTIVES
from distillability.rollouts import complete
from distillability.tasks.maths import Maths
from distillability.training.distill import StudentSettings, distill_student
from distillability.training.signals import RecordedSignals, record_signals
from distillability.types import Trace

TASK = Maths()
LENGTH = 44
STUDENT = "lab:maths/student"


def easy_traces(n: int) -> list[Trace]:
    """Right answers in the two easy modes."""
    rng = random.Random(0)
    prompts = TASK.prompts("query", n)
    return [Trace(prompt.id, prompt.text, TASK.render(prompt, rng.choice(("easy", "remark_easy")))) for prompt in prompts]


def plain_traces(n: int) -> tuple[list[Trace], RecordedSignals]:
    """Sampled answers of the plain teacher, and its log-probabilities along them."""
    teacher = load_model("lab:maths/teacher")
    prompts = TASK.prompts("query", n)
    found = complete(teacher, [prompt.text for prompt in prompts], decoding="sampled", max_new_tokens=LENGTH, seed=0)
    rows = zip(prompts, found.texts, found.truncated, strict=True)
    traces = [Trace(prompt.id, prompt.text, text) for prompt, text, cut in rows if not cut]
    return traces, record_signals(teacher, traces)


def accuracy(
    traces: Sequence[Trace], signals: RecordedSignals | None, objective: str, rate: float, steps: int, seed: int, batch: int
) -> str:
    """Greedy and sampled accuracy of one student on 1,000 validate prompts."""
    student = initialise_student(STUDENT, seed)
    settings = StudentSettings(
        steps=steps,
        batch_size=batch,
        gradient_accumulation_steps=1,
        learning_rate=rate,
        warmup_steps=50,
        on_policy_share=0.0,
        max_completion_length=LENGTH,
        save_steps=steps + 1,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = distill_student(
            student=student,
            objective=OBJECTIVES[objective],
            traces=traces,
            signals=signals if OBJECTIVES[objective].needs_teacher_logits else None,
            teacher=None,
            settings=settings,
            autocast_dtype=None,
            folder=Path(folder),
        )
    found = [
        evaluate_model(
            student,
            TASK,
            TASK.prompts("validate", 1000),
            decoding=decoding,
            samples=1,
            max_new_tokens=LENGTH,
            seed=seed,
            batch_size=500,
            autocast_dtype=None,
        )
        for decoding in ("greedy", "sampled")
    ]
    shares = ", ".join(f"{one.decoding} {sum(one.right) / len(one.right):.3f}" for one in found)
    return f"{objective} rate {rate:g} traces {len(traces)} steps {steps} × {batch} seed {seed}: {shares} ({outcome['seconds']:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("queries", "steps", "rates"))
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--rates", nargs="+", type=float, default=[1.5e-3, 3e-3, 6e-3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        if args.what == "queries":
            for queries in (125, 250, 500, 1000, 2000):
                print(accuracy(easy_traces(queries), None, "seqkd", args.rate, args.steps, seed, args.batch), flush=True)
        elif args.what == "steps":
            for steps in (250, 400, 500, 600, 750, 1000):
                print(accuracy(easy_traces(args.queries), None, "seqkd", args.rate, steps, seed, args.batch), flush=True)
        else:
            traces, signals = plain_traces(args.queries)
            for objective in args.objectives:
                for rate in args.rates:
                    print(accuracy(traces, signals, objective, rate, args.steps, seed, args.batch), flush=True)


if __name__ == "__main__":
    main()
