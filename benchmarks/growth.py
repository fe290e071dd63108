"""How the time of a calibration step grows with what it works on; a figure and one JSON object.

    python -m benchmarks.growth docs/growth.png

A Llama of the lab's shape with random weights, 8 prompts × 8 completions of 32 tokens, vocabulary 1,024; then one of the three at a time:
tokens a completion, completions a prompt, vocabulary. float32, median of three steps. Straight lines in the figure are proportional growth
from the largest point, below which fixed costs show; a curve steeper than its line would be growth faster than the work's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import matplotlib as mpl
import torch

from benchmarks.calibration import Shape, build
from benchmarks.models import Size
from benchmarks.timing import Stepper, alternate

mpl.use("Agg")
import matplotlib.pyplot as plt

BASE = {"tokens": 32, "group": 8, "vocabulary": 1024}
VALUES = {
    "tokens": (16, 32, 64, 128, 256),
    "group": (2, 4, 8, 16, 32),
    "vocabulary": (1024, 4096, 16_384, 65_536, 262_144),
}
LABELS = {"tokens": "tokens a completion", "group": "completions a prompt", "vocabulary": "vocabulary"}


def seconds_of(tokens: int, group: int, vocabulary: int, folder: str) -> float:
    """Median seconds of a step."""
    size = Size(vocabulary, 128, 4, 4, 4)
    stepper = Stepper(build("ours", Shape(f"growth-{vocabulary}", 8, group, tokens, size), "float32", folder))
    found = alternate({"ours": stepper}, 3)["ours"]
    stepper.close()
    return found


def draw(found: dict[str, dict[int, float]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, (name, times) in zip(axes, found.items(), strict=True):
        values, seconds = list(times), list(times.values())
        axis.loglog(values, seconds, "o-", color="#1f77b4", label="measured")
        axis.loglog(values, [seconds[-1] * value / values[-1] for value in values], "--", color="#999999", label="proportional")
        axis.set_xlabel(LABELS[name])
        axis.set_xticks(values, [f"{value:,}" for value in values], rotation=30)
        axis.minorticks_off()
    axes[0].set_ylabel("seconds a step")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in VALUES.items():
            found[name] = {}
            for value in values:
                found[name][value] = seconds_of(**BASE | {name: value}, folder=folder)
                print(f"{name} {value:,}: {found[name][value]:.3f} s", flush=True)
    draw(found, args.figure)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
