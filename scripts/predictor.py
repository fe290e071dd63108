"""The record of the distillability score: how well it orders students that it was not fitted to, beside four other measures.

    python scripts/predictor.py list RUN…       the cases, every student of the runs at the headline budget: records/predictor/list.csv
    python scripts/predictor.py measure RUN…    the score and the other measures of each source: records/predictor/measured.jsonl; resumes
    python scripts/predictor.py fit             records/predictor/cases.csv, the correlations, and the curve of traps/predictor.py
    python scripts/predictor.py rival           C a byte with the predictor's other inputs, beside the predictor, from cases.csv
    python scripts/predictor.py check           the same of cases that came later, by the curve as it stands; --folder says where they are

RUN is a run folder with its texts and models, named like its record. A case is one student; its accuracy is that of greedy answers on the
test split, read from the record. `measure` looks at no student and no result, only at texts, teacher, proxy and an untrained student.

Columns of cases.csv: predictor is the accuracy expected by a curve fitted to the other families alone. c_per_byte: mean log-probability of
the texts under the proxy minus under the plain teacher, a byte. bytes: mean length. step_share: of texts that are more than an answer.
token_reverse_kl: KL(q‖p) a token along texts of q, the recipe's student after the probe's steps; p is the teacher that wrote the texts (of
gold texts, the plain one).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

from distillability.config.load import load_recipe
from distillability.config.recipe import Diagnose
from distillability.diagnosis.collect import draw
from distillability.diagnosis.forward import Pair, trace
from distillability.diagnosis.predictor import FITTED, Fit, logit
from distillability.diagnosis.probe import train_and_ask, train_probe
from distillability.files import read_json, read_jsonl, write_text
from distillability.results import read_results
from distillability.rewards.compatibility import compatibility
from distillability.runs.context import TaskContext
from distillability.runs.paths import traces_file
from distillability.stages.diagnose import recipes_probe, stand_in
from distillability.stages.traces import load_traces
from distillability.types import Trace, complete_traces

FOLDER = Path(__file__).parents[1] / "records" / "predictor"
SETTINGS = Diagnose(prompts=500)
KEY = ("family", "source", "calibration", "record")
BASELINES = ("c_per_byte", "bytes", "step_share", "token_reverse_kl")
COLUMNS = ("family", "source", "objective", "student", "seed", "predictor", *BASELINES, "accuracy", "calibration", "record")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "measure", "fit", "check", "rival"])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="beside the records; records/predictor where not given")
    args = parser.parse_args()
    globals()["FOLDER"] = args.folder.resolve()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if args.what == "list":
        write_csv("list.csv", [case for run in args.runs for case in cases_of(run)])
    elif args.what == "measure":
        measure(args.runs)
    elif args.what == "rival":
        rival()
    else:
        fit(anew=args.what == "fit")


# The cases


def cases_of(run: Path) -> Iterator[dict[str, Any]]:
    """Every student of a run at the headline budget, from the keys of its results alone."""
    for row in student_rows(run):
        yield {"family": row.task, "source": row.source, "objective": row.objective, "student": row.student, "seed": row.seed} | {
            "calibration": row.calibration,
            "record": run.name,
        }


def student_rows(run: Path) -> list[Any]:
    results = read_results(run / "results.json")
    recipe = load_recipe(run / "recipe.json")
    headline = {task.name: (task.queries, task.steps) for task in recipe.tasks}
    return [
        row
        for row in results.rows
        if (row.role, row.metric, row.split, row.decoding) == ("student", "accuracy", "test", "greedy")
        and row.seed is not None
        and row.objective is not None
        and row.budget is not None
        and (row.budget.queries, row.budget.steps) == headline[row.task]
        and not isinstance(row.prefix, float)
    ]


# What is known before anybody distils


def measure(runs: Sequence[Path]) -> None:
    """One line a source, appended as it is measured."""
    path = FOLDER / "measured.jsonl"
    done = {tuple(line[key] for key in KEY) for line in (read_jsonl(path) if path.is_file() else ())}
    for run in runs:
        recipe, autocast = load_recipe(run / "recipe.json"), read_json(run / "manifest.json")["autocast"]
        contexts = {task.name: TaskContext(recipe, task.name, run.resolve(), autocast[task.name]) for task in recipe.tasks}
        for case in cases_of(run):
            key = tuple(case[name] for name in KEY)
            if key in done:
                continue
            done.add(key)
            line = dict(zip(KEY, key, strict=True)) | of_source(contexts[case["family"]], case["source"], case["calibration"])
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr)


def of_source(context: TaskContext, name: str, calibration: int | None) -> dict[str, Any]:
    texts = load_traces(traces_file(context.run, context.task_name, name, calibration), SETTINGS.probe_traces)
    settings = recipes_probe(context)
    assert settings is not None
    proxy = stand_in(context) or context.untrained_student(0)
    prompts = context.task.prompts("validate", SETTINGS.prompts)
    probed, _ = train_and_ask(proxy, "proxy", texts, context.task, prompts, settings, context.student_dtype)
    found = {"score": None, "n": 0} if probed is None else {"score": float(probed.right.mean()), "n": len(probed.right)}
    return found | of_texts(context, complete_traces(texts)) | {"token_reverse_kl": token_reverse_kl(context, name, calibration, texts)}


def of_texts(context: TaskContext, texts: Sequence[Trace]) -> dict[str, float | None]:
    """C a byte, length and the share with steps."""
    if not texts:
        return dict.fromkeys(("c_per_byte", "bytes", "step_share"))
    columns = [text.prompt for text in texts], [text.text for text in texts]
    scores = [context.scorer(loaded).score(*columns) for loaded in (context.load(context.config.proxy), context.plain())]
    values = compatibility(*scores, "bytes").numpy()
    return {
        "c_per_byte": float(np.nanmean(values)),
        "bytes": float(np.mean([len(text.text.encode()) for text in texts])),
        "step_share": float(np.mean([context.task.answer_only(text.text) != text.text for text in texts])),
    }


def token_reverse_kl(context: TaskContext, name: str, calibration: int | None, texts: Sequence[Trace]) -> float | None:
    settings, student = recipes_probe(context), context.untrained_student(0)
    assert settings is not None
    if not train_probe(student, texts, settings, context.student_dtype)["steps"]:
        return None
    teacher = context.teacher(context.source(name).teacher or "plain", calibration)
    autocast: Any = {"teacher": context.teacher_dtype, "student": context.student_dtype}
    pair = Pair(teacher, student, context.task, Diagnose(), context.config.max_completion_length, 0, autocast)
    traced = trace(pair, "student", pair.prompts, draw(pair, "student", pair.prompts))
    return None if traced.compared is None else float(traced.compared.reverse_kl.mean())


# The fit


def fit(*, anew: bool) -> None:
    """Each family by a curve that was fitted to the others, or all by the one in use, to which the cases must then be new."""
    measured = {tuple(line[key] for key in KEY): line for line in read_jsonl(FOLDER / "measured.jsonl")}
    cases = [case | measured[tuple(case[key] for key in KEY)] for case in with_accuracy()]
    left_out = [case for case in cases if case["score"] is None]
    cases = [case for case in cases if case["score"] is not None]
    families = sorted({case["family"] for case in cases})
    for family in families:
        curve = fitted([case for case in cases if case["family"] != family]) if anew else FITTED
        for case in (case for case in cases if case["family"] == family):
            case["predictor"] = curve.expected(case["score"], case["n"], case["objective"])
    write_csv("cases.csv", [{name: case[name] for name in COLUMNS} for case in cases])
    print(f"{len(cases)} cases; {len(left_out)} more without a score: {sorted({case['source'] for case in left_out})}")
    for told, kept in (("every objective", cases), ("seqkd alone", [case for case in cases if case["objective"] == "seqkd"])):
        print(
            f"\n{told}\n\n| family | cases | between .2 and .8 | predictor | " + " | ".join(BASELINES) + " |\n|---|---:|---:|" + "---:|" * 5
        )
        for family in families:
            mine = [case for case in kept if case["family"] == family]
            between = sum(0.2 < case["accuracy"] < 0.8 for case in mine)
            cells = [correlation(mine, name) for name in ("predictor", *BASELINES)]
            print(f"| {family} | {len(mine)} | {between} | " + " | ".join(cells) + " |")
    errors = [abs(case["predictor"] - case["accuracy"]) for case in cases]
    print(f"mean |predictor - accuracy|: {np.mean(errors):.3f}, median {np.median(errors):.3f}")
    print(fitted(cases) if anew else FITTED)


def with_accuracy() -> Iterator[dict[str, Any]]:
    """The listed cases, each with the accuracy of its record."""
    with (FOLDER / "list.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    found = {}
    for record in {case["record"] for case in listed}:
        for row in student_rows(FOLDER.parent / record):
            found[record, row.task, row.source, row.objective, row.seed, row.calibration] = row.value
    for case in listed:
        number = int(case["calibration"]) if case["calibration"] else None
        key = (case["record"], case["family"], case["source"], case["objective"], int(case["seed"]), number)
        yield case | {"seed": int(case["seed"]), "calibration": number, "accuracy": found[key]}


def rival() -> None:
    """C a byte with what the predictor gets, from cases.csv: offsets of the objectives, z-scores in the family (no accuracy needed)."""
    with (FOLDER / "cases.csv").open(encoding="utf-8", newline="") as file:
        cases: list[dict[str, Any]] = [
            case | {name: float(case[name]) for name in ("predictor", "c_per_byte", "accuracy")} for case in csv.DictReader(file)
        ]
    families = sorted({case["family"] for case in cases})
    for scaled in (True, False):
        for family in families:
            mine = [case for case in cases if case["family"] == family]
            values = np.array([case["c_per_byte"] for case in mine])
            centre, spread = (values.mean(), values.std()) if scaled else (0.0, 1.0)
            for case, value in zip(mine, values, strict=True):
                case["rival"] = float((value - centre) / spread)
        print(f"\nC a byte with offsets of the objectives{', z-scored within the family' if scaled else ''} | the predictor")
        for family in families:
            curve = fitted([case for case in cases if case["family"] != family], lambda case: case["rival"])
            mine = [case for case in cases if case["family"] == family]
            for case in mine:
                case["expected"] = 1 / (1 + math.exp(-curve.intercept - curve.slope * case["rival"] - curve.offsets[case["objective"]]))
            told = (f"{spearman(mine, name):.3f}, mean error {error(mine, name):.3f}" for name in ("expected", "predictor"))
            print(f"{family}: {' | '.join(told)}")


def error(cases: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([abs(case[name] - case["accuracy"]) for case in cases]))


def fitted(cases: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float] = lambda case: logit(case["score"], case["n"])) -> Fit:
    """By cross-entropy between reached and expected accuracies, each source of a family and objective with the same weight."""
    objectives = sorted({case["objective"] for case in cases} - {"seqkd"})
    inputs = np.array([[1.0, value(case), *(float(case["objective"] == name) for name in objectives)] for case in cases])
    reached = np.array([case["accuracy"] for case in cases])
    sizes: dict[tuple[Any, ...], int] = defaultdict(int)
    for case in cases:
        sizes[case["family"], case["source"], case["objective"]] += 1
    weights = np.array([1 / sizes[case["family"], case["source"], case["objective"]] for case in cases])

    def loss(parameters: Any) -> float:
        logits = inputs @ parameters
        return float(weights @ (np.logaddexp(0, logits) - reached * logits))

    found = minimize(loss, np.array([0.0, 1.0, *(0.0 for _ in objectives)]), method="BFGS").x
    return Fit(float(found[0]), float(found[1]), {"seqkd": 0.0} | dict(zip(objectives, map(float, found[2:]), strict=True)))


def correlation(cases: Sequence[dict[str, Any]], name: str) -> str:
    """Spearman's, over the cases that have the measure; its interval by resampling sources."""
    known = [case for case in cases if case[name] is not None]
    sources = sorted({(case["source"], case["record"]) for case in known})
    by_source = {source: [case for case in known if (case["source"], case["record"]) == source] for source in sources}
    rng, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        picked = [case for place in rng.integers(0, len(sources), len(sources)) for case in by_source[sources[place]]]
        drawn.append(spearman(picked, name))
    if math.isnan(spearman(known, name)):
        return "missing: all alike"
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return f"{spearman(known, name):.2f} [{low:.2f}, {high:.2f}]" + ("" if len(known) == len(cases) else f" (n {len(known)})")


def spearman(cases: Sequence[dict[str, Any]], name: str) -> float:
    values, reached = ([case[key] for case in cases] for key in (name, "accuracy"))
    return math.nan if len(set(values)) < 2 or len(set(reached)) < 2 else float(spearmanr(values, reached)[0])


def write_csv(name: str, lines: Sequence[dict[str, Any]]) -> None:
    text = [",".join(lines[0])]
    text += [
        ",".join("" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value) for value in line.values())
        for line in lines
    ]
    write_text(FOLDER / name, "\n".join(text) + "\n")
    print(f"{len(lines)} lines in {FOLDER / name}")


if __name__ == "__main__":
    main()
