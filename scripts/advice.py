"""Whether the advice of a diagnosis pays: what it names against one objective for all, with and without noise planted in the teacher.

    python scripts/advice.py DIR FAMILY=RUN…       every case, about two minutes each on two cores; resumes
    python scripts/advice.py DIR --table           no run, the table of what is there

RUN is the folder of a knob sweep of that family; its teachers of knob −1, .03 and 1 and the plain one are the cases. Each stands as the
plain teacher of a run of its own: it is diagnosed with three further sources to compare (greedy, prefilled, best of 8 by C), and then
students learn from its own texts by seqkd and by forward_kl, and as the advice says. Noise: the norm before the output head is multiplied
by 0.6, which flattens all that the teacher says, so that its tail speaks louder. The rival is the objective that is better over all cases.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distillability.config.load import load_recipe
from distillability.files import new_folder
from distillability.models.load import load_model
from distillability.report.diagnosis_section import forecasts, subjects
from distillability.report.folder import read_diagnoses
from distillability.results import Row, read_results

RECIPE = Path(__file__).parents[1] / "recipes" / "lab.toml"
CASES = (
    ("plain", False),
    ("plain", True),
    ("knob_-1", False),
    ("knob_-1", True),
    ("knob_1", False),
    ("knob_1", True),
    ("knob_0.03", False),
)
NOISE = 0.6  # of what the head is given
FIXED = ("seqkd", "forward_kl")
TIED = 0.02  # of accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", metavar="FAMILY=RUN")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    for family, run in () if args.table else (given.split("=", 1) for given in args.runs):
        for teacher, noisy in CASES:
            one_case(args.folder / f"{family}-{teacher}{'-noisy' if noisy else ''}", family, Path(run), teacher, noisy)
    print("\n".join(table(args.folder)))


def one_case(folder: Path, family: str, run: Path, teacher: str, noisy: bool) -> None:
    """Diagnosed first; the students' run then resumes nothing of it, for its recipe is another."""
    path = f"lab:{family}/teacher" if teacher == "plain" else str(run / "calibrate" / family / teacher / "seed-0" / "model")
    if noisy:
        path = str(flattened(path, folder.parent / "teachers" / folder.name))
    place = [task.name for task in load_recipe(RECIPE).tasks].index(family)
    common = [f"only=['{family}']", f"tasks.{place}.teacher={path}", "calibrate.teachers={}", "calibrate.force=true", "workers=1"]
    sources = "diagnose={sources=['plain_greedy','plain_prefilled','plain_best_of_8'],weight_prompts=4,weight_samples=4}"
    cli("diagnose", folder / "before", [*common, "distill.arms=[{sources=['plain']}]", sources])
    source, objective = advised(folder / "before", family)
    arms = f"distill.arms=[{{sources=['plain'],objectives=['seqkd','forward_kl']}},{{sources=['{source}'],objectives=['{objective}']}}]"
    cli("run", folder / "after", [*common, arms])


def cli(verb: str, out: Path, settings: Sequence[str]) -> None:
    command = [sys.executable, "-m", "distillability", verb, str(RECIPE), "--out", str(out), "--resume"]
    subprocess.run([*command, *(f"--set={setting}" for setting in settings)], check=True)


def flattened(reference: str, folder: Path) -> Path:
    """The teacher with its last norm, the input of the output head, scaled down; saved, and made once."""
    if not folder.exists():
        loaded = load_model(reference)
        loaded.model.model.norm.weight.data *= NOISE
        with new_folder(folder) as temporary:
            loaded.model.save_pretrained(temporary)
            loaded.tokenizer.save_pretrained(temporary)
    return folder


def advised(folder: Path, family: str) -> tuple[str, str]:
    """Source and objective, as the report says them."""
    found = subjects(read_diagnoses(folder), family)
    made = forecasts(found)
    if made is None or made.best is None:
        raise SystemExit(f"{folder}: no forecast was made")
    source = next(subject.source for subject in found if subject.label == made.best.source)
    return source, made.best.objective


def table(folder: Path) -> Iterator[str]:
    """Greedy accuracy of one student each, 1,000 test prompts."""
    cases = {path.parent.parent.name: path for path in sorted(folder.glob("*/after/results.json"))}
    reached = {
        name: {(row.source, row.objective): row.value for row in read_results(path).rows if is_accuracy(row)}
        for name, path in cases.items()
    }
    means = {objective: float(np.mean([found["plain", objective] for found in reached.values()])) for objective in FIXED}
    rival = max(means, key=lambda objective: means[objective])
    yield "| teacher | " + " | ".join(f"its own texts, {objective}" for objective in FIXED) + f" | advice | reached | against {rival} |"
    yield "|---|" + "---:|" * len(FIXED) + "---|---:|---:|"
    gains = []
    for name, found in reached.items():
        advice = advised(folder / name / "before", name.split("-")[0])
        gains.append(found[advice] - found["plain", rival])
        own = " | ".join(f"{found['plain', objective]:.3f}" for objective in FIXED)
        yield f"| {name.replace('-', ', ', 1)} | {own} | {', '.join(advice)} | {found[advice]:.3f} | {gains[-1]:+.3f} |"
    held = sum(gain >= -TIED for gain in gains)
    yield f"\nbetter or tied within {TIED} in {held} of {len(gains)}; mean gain {np.mean(gains):+.3f}; means of the fixed ones {means}"


def is_accuracy(row: Row) -> bool:
    return (row.role, row.metric, row.split, row.decoding, row.seed) == (
        "student",
        "accuracy",
        "test",
        "greedy",
        0,
    ) and row.source != "none"


if __name__ == "__main__":
    main()
