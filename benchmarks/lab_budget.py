"""How many traces and steps a student of easy steps needs, and which learning rate each objective wants; all on the validate split.

    python -m benchmarks.lab_budget queries --seeds 3
    python -m benchmarks.lab_budget steps --queries 2000
    python -m benchmarks.lab_budget rates --queries 2000 --steps 1000
    python -m benchmarks.lab_budget hard --family knowledge --queries 4000 16000

`hard` is the other side: how far a student of hard steps gets, which must stay low at every budget that the recipes use; `plain` is what
both are compared with. --family names the lab's family. The budget of the lab's recipes follows from the first two: Q = four times the
smallest budget (over doublings) at which a student of easy steps reaches 95 %, and twice the steps it needs at that Q. Nothing here looks
at the test split or at a calibrated teacher.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from distillability.evaluation.harness import evaluate_model
from distillability.inference import complete
from distillability.lab.build import FAMILIES, Family
from distillability.models.load import initialise_student, load_model
from distillability.objectives import OBJECTIVES
from distillability.tasks.modes import Mode
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.training.teacher_signals import RecordedSignals, record_signals
from distillability.types import Trace


def gold_traces(family: Family, n: int, modes: Sequence[Mode]) -> list[Trace]:
    """Right answers, each in one of the modes."""
    rng = random.Random(0)
    prompts = family.task.prompts("query", n)
    return [Trace(prompt.id, prompt.text, family.task.render(prompt, rng.choice(modes))) for prompt in prompts]


def plain_traces(family: Family, n: int) -> tuple[list[Trace], RecordedSignals]:
    """Sampled answers of the plain teacher, and its log-probabilities along them."""
    teacher = load_model(f"lab:{family.task.name}/teacher")
    prompts = family.task.prompts("query", n)
    asked = [prompt.text for prompt in prompts]
    found = complete(teacher, asked, decoding="sampled", max_new_tokens=family.max_completion_length, seed=0)
    rows = zip(prompts, found.texts, found.truncated, strict=True)
    traces = [Trace(prompt.id, prompt.text, text) for prompt, text, cut in rows if not cut]
    signals = record_signals(teacher, traces)
    assert signals is not None
    return traces, signals


def accuracy(
    family: Family,
    traces: Sequence[Trace],
    signals: RecordedSignals | None,
    objective: str,
    *,
    rate: float,
    steps: int,
    seed: int,
    batch: int,
) -> str:
    """Greedy and sampled accuracy of one student on 1,000 validate prompts."""
    student = initialise_student(f"lab:{family.task.name}/student", seed)
    settings = StudentSettings(
        steps=steps,
        batch_size=batch,
        gradient_accumulation_steps=1,
        learning_rate=rate,
        warmup_steps=50,
        on_policy_share=0.0,
        max_completion_length=family.max_completion_length,
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
            family.task,
            family.task.prompts("validate", 1000),
            decoding=decoding,
            samples=1,
            max_new_tokens=family.max_completion_length,
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
    parser.add_argument("what", choices=("queries", "steps", "rates", "hard", "plain"))
    parser.add_argument("--family", choices=tuple(FAMILIES), default="maths")
    parser.add_argument("--queries", type=int, nargs="+", default=[4000])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--rates", nargs="+", type=float, default=[1.5e-3, 3e-3, 6e-3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for line in results(FAMILIES[args.family], args):
        print(line, flush=True)


def results(family: Family, args: argparse.Namespace) -> Iterator[str]:
    easy, hard = family.task.easy_modes, ("hard", "remark_hard")
    common = {"rate": args.rate, "steps": args.steps, "batch": args.batch}
    for seed in range(args.seeds):
        match args.what:
            case "queries":
                for queries in (125, 250, 500, 1000, 2000):
                    yield accuracy(family, gold_traces(family, queries, easy), None, "seqkd", **common, seed=seed)
            case "steps":
                traces = gold_traces(family, args.queries[0], easy)
                for steps in (250, 400, 500, 600, 750, 1000):
                    yield accuracy(family, traces, None, "seqkd", **common | {"steps": steps}, seed=seed)
            case "hard":
                for queries in args.queries:
                    yield accuracy(family, gold_traces(family, queries, hard), None, "seqkd", **common, seed=seed)
            case "plain":
                for queries in args.queries:
                    yield accuracy(family, *plain_traces(family, queries), "seqkd", **common, seed=seed)
            case _:
                traces, signals = plain_traces(family, args.queries[0])
                for objective in args.objectives:
                    for rate in args.rates:
                        yield accuracy(family, traces, signals, objective, **common | {"rate": rate}, seed=seed)


if __name__ == "__main__":
    main()
