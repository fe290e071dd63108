"""docs/your-own-models.md as a user follows it: its recipe is saved and its commands are run, as they are written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from command_line import ROOT, invoke
from distillability.files import write_jsonl
from distillability.models.locate import locate
from distillability.results import read_results
from distillability.tasks import Maths
from distillability.types import SPLITS
from processes import run_in_processes

PAGE = (ROOT / "docs" / "your-own-models.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


COMMANDS = re.findall(r"^(?:distillability|python) .*?(?:<<'END'\n.*?^END)?$", "".join(blocks("sh")), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page asks for: three models and a file of questions."""
    folder = tmp_path_factory.mktemp("walk")
    for role in ("teacher", "proxy", "student"):
        shutil.copytree(locate(f"lab:maths/{role}"), folder / role)
    task = Maths()
    prompts = [prompt for split, n in zip(SPLITS, (64, 48, 20, 40), strict=True) for prompt in task.prompts(split, n)]
    write_jsonl(folder / "questions.jsonl", ({"prompt": prompt.text, "answer": prompt.answer} for prompt in prompts))
    (folder / "recipe.toml").write_text(blocks("toml")[0], encoding="utf-8")
    (folder / "held_out.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    (folder / "bin").mkdir()
    for name, call in (("distillability", f"{sys.executable} -m distillability"), ("python", sys.executable)):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        command.chmod(0o755)
    return folder


def run(place: Path, command: str) -> str:
    if command.startswith("distillability ") and "lm-eval" not in command:  # whose cache is named when it is imported
        (forked,) = run_in_processes(invoke, *shlex.split(command)[1:], cwd=place)
        assert forked.returncode == 0, f"{command}\n{forked.stdout}{forked.stderr}"
        return forked.stdout
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HF_HOME": str(place / "cache")}
    done = subprocess.run(["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_page_has_at_most_ten_commands() -> None:
    assert len("".join(blocks("sh")).split("distillability ")) - 1 + 1 == len(COMMANDS) <= 10


def test_every_command_works_as_written(place: Path) -> None:
    said = {}
    for command in COMMANDS:
        if "lm-eval" not in command or find_spec("lm_eval"):
            said[command.split()[1]] = run(place, command)
    assert "no problems found" in said["validate"] and "complete" in said["show"]
    assert re.search(r"^\S+ -> \S+", said["-"], re.MULTILINE), said["-"]
    results = read_results(place / "runs/mine/results.json")
    assert results.run.complete
    sources = {row.source for row in results.rows if row.role == "student" and row.metric == "accuracy"}
    assert {"plain", "distillable", "undistillable", "plain_greedy", "gold_answers"} <= sources
    if find_spec("lm_eval"):
        (row,) = read_results(place / "held_out.json").rows
        assert row.n == 172 and row.value is not None and row.value > 0.5
