"""Does each measure move with its own trap, and the others less? Traps are planted in a pair of the lab, in rising doses.

    python -m benchmarks.planted_traps [--family maths] [--steps 1500] [--prompts 200]

A student of the lab's teacher is trained. Then, along the same texts:

    noise       ε of the teacher's mass is spread evenly over the vocabulary, at every position
    prefixes    a share of the student's texts is replaced by texts of an untrained student
    layer       the student's last layer is faded out

Prints a table of every measure (value by dose) and, last, one JSON object: for each measure and trap the values, their rank correlation
with the dose, and the change from no dose to the largest, towards trouble, in units of the measure's threshold (of 1 where it has none).
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.lab_budget import FAMILIES, plain_traces
from distillability.config.recipe import Diagnose
from distillability.diagnosis import Finding, find
from distillability.diagnosis.collect import Drawn, draw, draw_all, read_all
from distillability.diagnosis.findings import Rule
from distillability.diagnosis.forward import Pair
from distillability.diagnosis.probe import train_probe
from distillability.inference import Completions
from distillability.models.load import LoadedModel, initialise_student, load_model
from distillability.training.distill_student import StudentSettings

DOSES = {"noise": (0.0, 0.02, 0.05, 0.1, 0.2), "prefixes": (0.0, 0.1, 0.25, 0.5, 1.0), "layer": (0.0, 0.25, 0.5, 0.75, 1.0)}


def noisy(teacher: LoadedModel, share: float) -> LoadedModel:
    """The teacher with `share` of its mass spread evenly over the vocabulary."""
    model = copy.deepcopy(teacher.model)

    def spread(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        p = output.logits.float().softmax(-1)
        output.logits = ((1 - share) * p + share / p.shape[-1]).log()
        return output

    model.register_forward_hook(spread)
    return replace(teacher, model=model)


def trained_student(family_name: str, steps: int) -> LoadedModel:
    """A student of the plain teacher."""
    family = FAMILIES[family_name]
    traces, _ = plain_traces(family, 2000)
    student = initialise_student(f"lab:{family_name}/student", seed=0)
    settings = StudentSettings(
        steps=steps,
        batch_size=48,
        gradient_accumulation_steps=1,
        learning_rate=3e-3,
        warmup_steps=50,
        on_policy_share=0.0,
        max_completion_length=family.max_completion_length,
        save_steps=steps,
        seed=0,
    )
    train_probe(student, traces, settings, None)
    return student


def planted(pair: Pair, drawn: Drawn, untrained: LoadedModel) -> Iterator[tuple[str, float, list[Finding]]]:
    """Every trap at every dose."""
    for share in DOSES["noise"]:
        yield "noise", share, _read(replace(pair, teacher=noisy(pair.teacher, share)), drawn)
    strange = draw(replace(pair, student=untrained), "student", pair.prompts)
    for share in DOSES["prefixes"]:
        own = drawn.own | {"student": _swapped(drawn.own["student"], strange, share)}
        yield "prefixes", share, _read(pair, replace(drawn, own=own))
    for dose in DOSES["layer"]:
        student = copy.deepcopy(pair.student.model)
        layer = student.get_decoder().layers[-1]
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):  # what a layer adds to its input goes through these two
            linear.weight.data.mul_(1 - dose)
        yield "layer", dose, _read(replace(pair, student=replace(pair.student, model=student)), drawn)


def _read(pair: Pair, drawn: Drawn) -> list[Finding]:
    return find(read_all(pair, drawn), symptoms=False)


def _swapped(first: Completions, second: Completions, share: float) -> Completions:
    """The first `share` of the texts from `second`, the rest from `first`."""
    count = round(share * len(first.texts))
    return Completions(*(theirs[:count] + ours[count:] for ours, theirs in zip(vars(first).values(), vars(second).values(), strict=True)))


def main() -> None:
    """Plant every trap and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="maths", choices=sorted(FAMILIES))
    parser.add_argument("--steps", type=int, default=1500, help="student steps before a trap is planted")
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    family, student = FAMILIES[options.family], trained_student(options.family, options.steps)
    teacher = load_model(f"lab:{options.family}/teacher")
    settings = Diagnose(prompts=options.prompts)
    pair = Pair(teacher, student, family.task, settings, family.max_completion_length, seed=0)
    drawn = draw_all(pair)
    found: dict[str, dict[str, list[float | None]]] = {}
    rules: dict[str, Rule] = {}
    for trap, _, findings in planted(pair, drawn, initialise_student(f"lab:{options.family}/student", seed=1)):
        for finding in findings:
            found.setdefault(finding.name, {}).setdefault(trap, []).append(finding.value)
            rules[finding.name] = finding.rule
    print("| trap | measure | " + " | ".join(f"{trap} {DOSES[trap]}" for trap in DOSES) + " |")
    print("|---|---|" + "---|" * len(DOSES))
    for name, by_trap in found.items():
        cells = [" → ".join("missing" if value is None else f"{value:.3g}" for value in by_trap[trap]) for trap in DOSES]
        print(f"| {rules[name].trap} | {name} | " + " | ".join(cells) + " |")
    print(json.dumps({name: {trap: _summary(trap, by_trap[trap], rules[name]) for trap in DOSES} for name, by_trap in found.items()}))


def _summary(trap: str, values: list[float | None], rule: Rule) -> dict[str, object]:
    """Rank correlation with the dose and change towards trouble, in thresholds; null where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"values": values, "rank_correlation": None, "change": None}
    moved = max(known) > min(known)
    towards = 1 if rule.side == "above" else -1
    order = towards * float(spearmanr(DOSES[trap], known).statistic) if moved else 0.0
    return {"values": known, "rank_correlation": order, "change": towards * (known[-1] - known[0]) / abs(rule.threshold or 1)}


if __name__ == "__main__":
    main()
