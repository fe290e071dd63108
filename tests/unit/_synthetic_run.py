"""A run folder as the stages leave it, with made-up numbers: two calibrations, three seeds, four objectives, controls and budgets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distillability.config.sources import parent_of
from distillability.files import write_json, write_jsonl
from distillability.results import Budget, Results, Row, RunInfo, write_results

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \"quoted\" 'text' $x^2$ | `code` {{ 7*7 }} \u202e\x00"
QUERIES, STEPS, PROMPTS = 2000, 1000, 1000
OBJECTIVES = ("seqkd", "forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl")
KNOBS = {"undistillable": -1.0, "distillable": 1.0, "knob_0": 0.0}
STUDENTS = {"undistillable": 0.13, "plain": 0.58, "knob_0": 0.61, "distillable": 0.96}
CONTROLS = {
    "plain_greedy": 0.55,
    "plain_prefilled": 0.60,
    "plain_prefilled_oracle": 0.97,
    "plain_best_of_8": 0.83,
    "plain_worst_of_8": 0.31,
    "answer_only": 0.12,
    "gold_answers": 0.14,
    "gold_steps": 0.99,
    "length_only_up": 0.57,
    "length_only_down": 0.56,
    "undistillable_prefilled": 0.21,
    "undistillable_few_shot": 0.15,
    "undistillable_prefilled_oracle": 0.93,
}
RIGHT_STEPS = {"plain": 0.987, "undistillable": 0.984, "distillable": 0.993, "knob_0": 0.991}
MODES = ("easy", "hard", "remark_easy", "remark_hard")


_UNTAUGHT = {"objective": None, "prefix": None, "budget": None}


def _bounds(value: float, half: float = 0.02) -> dict[str, Any]:
    return {"value": value, "ci_low": max(0.0, value - half), "ci_high": min(1.0, value + half)}


def student_rows(
    source: str,
    centre: float,
    objective: str,
    *,
    seeds: int = 3,
    calibration: int | None = None,
    budget: tuple[int, int] = (QUERIES, STEPS),
) -> Iterator[Row]:
    """One row a seed and one over all of them, greedy and sampled, as the summary writes them."""
    rng = random.Random(f"{source} {objective} {calibration} {budget}")
    common = {
        "task": "maths",
        "role": "student",
        "source": source,
        "knob": KNOBS.get(parent_of(source) or source),
        "calibration": calibration,
        "student": "lab:maths/student",
        "objective": objective,
        "prefix": "teacher",
        "budget": Budget(queries=budget[0], steps=budget[1], tokens=budget[1] * 48 * 30),
    }
    for split, decoding in (("validate", "greedy"), ("test", "greedy"), ("test", "sampled")):
        values = [min(1.0, max(0.0, centre + rng.gauss(0, 0.015))) for _ in range(seeds)]
        fields = common | {"split": split, "decoding": decoding, "metric": "accuracy", "n": PROMPTS}
        yield from (Row(**fields, seed=seed, interval="Wilson", **_bounds(value)) for seed, value in enumerate(values))
        yield Row(**fields, interval="bootstrap over prompts x seeds", **_bounds(sum(values) / seeds, 0.03))


def teacher_rows(source: str, calibration: int | None = None) -> Iterator[Row]:
    common = {
        "task": "maths",
        "split": "test",
        "role": "teacher",
        "source": source,
        "knob": KNOBS.get(source),
        "calibration": calibration,
        "proxy": "lab:maths/proxy" if source in KNOBS else None,
    }
    for decoding, loss in (("greedy", 0.0), ("sampled", 0.01)):
        value = RIGHT_STEPS[source] - loss - 0.001 * (calibration or 0)
        for metric in ("accuracy", "right_steps", "answer_only_share"):
            shown = 0.0 if metric == "answer_only_share" else value
            yield Row(**common, decoding=decoding, metric=metric, n=4000, interval="Wilson", **_bounds(shown, 0.004))
        yield Row(**common, decoding=decoding, metric="bytes", value=33.2, n=4000)
    why = "no complete text that every model involved can score, or no spread among them"
    yield Row(**common, decoding="sampled", metric="anchor_nats", value=0.0 if source == "plain" else 0.71, n=1000)
    yield Row(**common, decoding="sampled", metric="compatibility", value=-0.05, n=1000)
    yield Row(**common, decoding="sampled", metric="correlation_compatibility_bytes", value=None, n=1000, reason=why)
    if calibration is not None:
        yield Row(**common, metric="calibration_seconds", value=93.4 + calibration, n=1, seconds=93.4)
        yield Row(**common, metric="calibration_steps", value=60.0, n=1)


def derived_rows(calibrations: int) -> Iterator[Row]:
    """Students of all calibrations together; the teacher's changes one calibration at a time."""
    common = {"task": "maths", "split": "test"}
    for source in (*KNOBS, *CONTROLS):
        centre = STUDENTS.get(source, CONTROLS.get(source, 0.0))
        own = common | {"source": source, "knob": KNOBS.get(source), "role": "student", "prefix": "teacher", "n": PROMPTS}
        for objective in OBJECTIVES if source in KNOBS else OBJECTIVES[:1]:
            found = own | {"objective": objective, "budget": _headline()}
            for decoding in ("greedy", "sampled"):
                change = centre - STUDENTS["plain"]
                bounds = {"value": change, "ci_low": change - 0.04, "ci_high": change + 0.04, "decoding": decoding}
                yield Row(**found, metric="difference_to_plain", **bounds)
            if source == "distillable":
                yield Row(**found, decoding="greedy", metric="gap_closed", value=0.93, ci_low=0.85, ci_high=0.99)
            if source == "undistillable":
                yield Row(**found, decoding="greedy", metric="kept", value=0.06, ci_low=0.02, ci_high=0.1)
    yield from _headline_measures(common)
    for source in KNOBS:
        for calibration in range(calibrations):
            own = common | {"source": source, "knob": KNOBS[source], "calibration": calibration, "role": "teacher", "n": 4000}
            for decoding in ("greedy", "sampled"):
                change = RIGHT_STEPS[source] - RIGHT_STEPS["plain"]
                bounds = {"value": change, "ci_low": change - 0.006, "ci_high": change + 0.006, "decoding": decoding}
                yield Row(**own, metric="teacher_right_steps_change", **bounds)


def _headline_measures(common: dict[str, Any]) -> Iterator[Row]:
    common = common | {
        "role": "student",
        "objective": "seqkd",
        "prefix": "teacher",
        "budget": _headline(),
        "decoding": "greedy",
        "n": PROMPTS,
    }
    guard = common | {"source": "undistillable", "knob": -1.0}
    yield Row(**guard, metric="yield", value=0.09, ci_low=0.05, ci_high=0.14, interval="bootstrap; guard: undistillable_prefilled")
    yield Row(**guard, metric="elicited_yield", value=None, reason="the denominator's lower bound is under 0.10")
    yield Row(**guard, metric="oracle_elicited_yield", value=0.94, ci_low=0.9, ci_high=0.98)
    up = common | {"source": "distillable", "knob": 1.0}
    yield Row(**up, metric="headline_up", value=0.13, ci_low=0.09, ci_high=0.17, interval="bootstrap; alternative: plain_best_of_8")


def _headline() -> Budget:
    return Budget(queries=QUERIES, steps=STEPS)


def full_rows() -> list[Row]:
    rows = [*teacher_rows("plain"), *(row.model_copy(update=_UNTAUGHT) for row in student_rows("none", 0.02, "seqkd"))]
    for source, centre in STUDENTS.items():
        calibrations: Sequence[int | None] = (None,) if source == "plain" else (0, 1)
        for place, calibration in enumerate(calibrations):
            if calibration is not None:
                rows += teacher_rows(source, calibration)
            for objective in OBJECTIVES:
                rows += student_rows(source, centre - 0.02 * place, objective, calibration=calibration)
        if source != "knob_0":
            for queries, factor in ((QUERIES // 2, 0.5), (2 * QUERIES, 1.3), (4 * QUERIES, 1.5)):
                rows += student_rows(
                    source, min(0.99, centre * factor), "seqkd", calibration=calibrations[0], budget=(queries, STEPS), seeds=2
                )
            longer = min(0.99, centre * 1.4)
            rows += student_rows(source, longer, "seqkd", calibration=calibrations[0], budget=(QUERIES, 4 * STEPS), seeds=2)
    for source, centre in CONTROLS.items():
        rows += student_rows(source, centre, "seqkd", calibration=0 if source.startswith(("length", "undist")) else None)
    return [*rows, *derived_rows(2)]


def metrics_lines(knob: float, steps: int = 60) -> list[dict[str, Any]]:
    rng = random.Random(knob)
    lines = []
    for step in range(1, steps + 1):
        moved = min(1.0, step / 30) * knob
        shares = [0.25 + 0.24 * moved, 0.25 - 0.24 * moved] * 2
        lines.append(
            {
                "step": step,
                "n": 256,
                "task_reward": 0.97 + rng.uniform(0, 0.02),
                "right_steps": 0.965 + rng.uniform(0, 0.02),
                "compatibility": None if step == 7 else -0.06 + 0.03 * moved + rng.gauss(0, 0.003),
                "compatibility_share": 0.8,
                "anchor_nats": 0.7 * abs(moved),
                "bytes": 33 + rng.gauss(0, 0.1),
                "truncated": 0.0,
                "correlation_compatibility_bytes": None,
                "all_right_groups": 0.8,
                "all_wrong_groups": 0.0,
                "modes": dict(zip(MODES, shares, strict=True)),
                "answer_only": 0.0,
                "seconds": 1.5 * step,
            }
        )
    return lines


def samples(texts: Sequence[str], prompts: int = 8) -> list[dict[str, Any]]:
    speakers = [("teacher", source, None) for source in ("plain", "undistillable", "distillable")]
    speakers += [("student", source, "seqkd") for source in ("plain", "undistillable", "distillable")]
    rows = []
    for number in range(prompts):
        said = []
        for place, (role, source, objective) in enumerate(speakers):
            right = not (source == "undistillable" and role == "student")
            said.append(
                {
                    "role": role,
                    "source": source,
                    "objective": objective,
                    "text": texts[(number + place) % len(texts)],
                    "right": right,
                    "right_steps": right,
                    "mode": "hard" if source == "undistillable" else "easy",
                }
            )
        rows.append({"task": "maths", "prompt": f"{number}+3*9-8*{number}", "answer": str(number), "texts": said})
    return rows


def write_run(
    folder: Path,
    *,
    rows: Sequence[Row] | None = None,
    complete: bool = True,
    texts: Sequence[str] = (">1:7+3=0;2:0*9=0;#0",),
    curves: bool = True,
) -> Path:
    """A run folder with everything a report reads."""
    folder.mkdir(parents=True, exist_ok=True)
    info = RunInfo(
        name="synthetic",
        recipe_digest="ab" * 32,
        version="0.1.0",
        seconds=4210.5,
        complete=complete,
        queries={"maths": QUERIES},
        steps={"maths": STEPS},
        chance={"maths": 0.1},
    )
    write_results(Results(run=info, rows=list(full_rows() if rows is None else rows)), folder / "results.json")
    write_json(
        folder / "recipe.json", {"name": "synthetic", "tasks": [{"type": "maths", "name": "maths"}], "calibrate": {"anchor_budget": 3.0}}
    )
    write_json(folder / "manifest.json", manifest())
    write_jsonl(folder / "samples.jsonl", samples(texts))
    if curves:
        _write_calibrations(folder / "calibrate" / "maths")
    return folder


def _write_calibrations(folder: Path) -> None:
    for source, knob in KNOBS.items():
        for calibration in (0, 1):
            write_jsonl(folder / source / f"seed-{calibration}" / "metrics.jsonl", metrics_lines(knob * (1 - 0.1 * calibration)))
    checks = [
        {"name": "AUC of log P per byte, right against wrong", "value": 0.97, "threshold": 0.8, "passed": True, "n": 120, "note": ""},
        {
            "name": "AUC of log P per byte, easy against hard modes",
            "value": None,
            "threshold": 0.8,
            "passed": None,
            "n": 0,
            "note": "no modes",
        },
    ]
    write_json(folder / "admission.json", {"passed": True, "forced": False, "checks": checks, "summary": "", "advice": ""})


def manifest() -> dict[str, Any]:
    return {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "command": ["distillability", "run", "/home/someone/recipes/lab.toml", "--out", "runs/lab"],
        "seeds": {"run": 0, "calibrations": 2, "students": 3},
        "versions": {"python": "3.12.1", "distillability": "0.1.0", "torch": "2.9.0", "peft": None},
        "processor": {"model": "A processor", "machine": "x86_64", "cores": 2, "flags": ["avx2"]},
        "code": {"commit": "0" * 40, "clean": True},
        "seconds": {"calibrate": 560.1, "distill": 3100.0, "evaluate": 500.0},
        "costs": [
            {"stage": "calibrate", "kind": "calibration", "jobs": 2, "seconds": 800.0, "tokens": 160_000, "memory": 1_500_000_000},
            {"stage": "distill", "kind": "traces", "jobs": 3, "seconds": 200.0, "tokens": 0, "memory": None},
            {"stage": "diagnose", "kind": "diagnosis", "jobs": 1, "seconds": 1000.0, "tokens": None, "memory": 900_000_000},
        ],
        "autocast": {"maths": {"teacher": "bfloat16", "student": "float32"}},
        "parents": [{"model": "lab:maths/teacher", "sha256": "cd" * 32, "of": "contents"}],
    }
