"""The ablation over calibration options: one factor at a time, each a run of `recipes/lab-ablation.toml`, and one table of them all.

    python scripts/ablation.py runs/ablation                     every variant, about three minutes each on two cores; resumes
    python scripts/ablation.py runs/ablation default z_sum       these alone
    python scripts/ablation.py runs/ablation --table             no run, the table of what is there
    python scripts/ablation.py runs/again --set calibrate.calibrations=2 --set tasks.0.type=maths …

Every `--set` goes to every variant. Where further proxies are needed, students of the plain teacher serve: one trained in full, and one
after a fifteenth of the steps, which fails admission. They are trained first, in `DIR/proxies`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from distillability.config.load import load_recipe
from distillability.results import Results, Row, read_results

RECIPE = Path(__file__).parents[1] / "recipes" / "lab-ablation.toml"
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "reference: policy": ["calibrate.reference=policy"],
    "normaliser: none": ["calibrate.normaliser=none"],
    "normaliser: tokens": ["calibrate.normaliser=tokens"],
    "scale: z + z": ["calibrate.advantage=z_sum"],
    "clip: none": ["calibrate.clip=none"],
    "gate: none": ["calibrate.gate=none"],
    "require: none": ["calibrate.require=none", "calibrate.force=true"],
    "floor: .75": ["calibrate.accuracy_floor.accuracy=0.75"],
    "lora: rank 16": ["calibrate.lora.r=16", "calibrate.learning_rate=2e-3"],
    "proxies: two, mean": ["tasks.0.proxies=['{trained}']"],
    "proxies: two, worst": ["tasks.0.proxies=['{trained}']", "calibrate.proxy_aggregate=worst"],
    "proxy: a student of plain": ["tasks.0.proxy='{trained}'", "calibrate.force=true"],
    "proxy: fails admission": ["tasks.0.proxy='{early}'", "calibrate.force=true"],
    "proxy: random": ["tasks.0.proxy='{random}'", "calibrate.force=true"],
}
EARLY = 1 / 15  # of a student's steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    unknown = set(args.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"there is no variant {', '.join(sorted(unknown))}")
    chosen = args.variants or list(VARIANTS)
    if not args.table:
        proxies = further_proxies(args.folder / "proxies", args.settings)
        for name in chosen:
            run(args.folder / slug(name), [*(setting.format(**proxies) for setting in VARIANTS[name]), *args.settings])
    print("\n".join(table(args.folder, chosen)))


def run(folder: Path, settings: Sequence[str]) -> None:
    """One run through the command line; a variant that stops with a message is left incomplete, and the table says so."""
    options = [f"--set={setting}" for setting in settings]
    command = [sys.executable, "-m", "distillability", "run", str(RECIPE), "--out", str(folder), "--resume", *options]
    subprocess.run(command, check=False)


def further_proxies(folder: Path, settings: Sequence[str]) -> dict[str, str]:
    """Students of the plain teacher by name, and the student as it is before anybody trains it."""
    arms = f"distill.arms=[{{sources=['plain'], steps=[1.0, {EARLY}]}}]"
    run(folder, [arms, "calibrate.teachers={}", *settings])
    found = sorted(folder.glob("distill/*/plain/seqkd/q*/seed-0/model"), key=lambda path: int(path.parts[-3].split("-s")[1]))
    early, trained = found
    return {"early": str(early), "trained": str(trained), "random": load_recipe(RECIPE, settings).tasks[0].student}


def slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def table(folder: Path, chosen: Sequence[str]) -> Iterator[str]:
    """Students' greedy accuracy, teachers' sampled right steps against the plain teacher's, and what it cost."""
    heads = [
        "variant",
        "students of knob −1",
        "of knob +1",
        "right steps after, −1",
        "+1",
        "anchor −1, nats",
        "+1",
        "steps",
        "seconds each",
    ]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" + "|---:" * (len(heads) - 1) + "|"
    for name in chosen:
        path = folder / slug(name) / "results.json"
        yield f"| {name} | " + (" | ".join(cells(read_results(path))) if path.is_file() else "not run: see its log") + " |"


def cells(results: Results) -> Iterator[str]:
    sides = ("undistillable", "distillable")
    for source in sides:
        yield shown(pick(results, "student", source, "accuracy", "greedy"))
    for source in sides:
        yield shown(pick(results, "teacher", source, "teacher_right_steps_change", "sampled"))
    for metric in ("anchor_nats", "calibration_steps", "calibration_seconds"):
        values = [pick(results, "teacher", source, metric, None) for source in sides]
        numbers = ["missing" if row is None or row.value is None else f"{row.value:.3g}" for row in values]
        yield from numbers if metric == "anchor_nats" else [" / ".join(numbers)]


def pick(results: Results, role: str, source: str, metric: str, decoding: str | None) -> Row | None:
    """The row over all seeds, of the first calibration."""
    found = [
        row
        for row in results.rows
        if (row.role, row.source, row.metric, row.split) == (role, source, metric, "test" if decoding else row.split)
        and decoding in (None, row.decoding)
        and (row.seed is None or role == "teacher")
        and row.calibration in (None, 0)
    ]
    return found[0] if found else None


def shown(row: Row | None) -> str:
    if row is None:
        return "missing"
    if row.value is None:
        return f"missing: {row.reason}"
    interval = "" if row.ci_low is None else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
    return f"{row.value:.3f}{interval}"


if __name__ == "__main__":
    main()
