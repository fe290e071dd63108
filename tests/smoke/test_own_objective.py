"""An objective of the user's own, named `module:Class` in a recipe: checked, planned, distilled by, evaluated and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import reference
from command_line import run
from distillability.config.objectives import record_of
from distillability.errors import UserError
from distillability.objectives import build_objective
from distillability.results import read_results

TWICE = '''
import torch


class TwiceForwardKL:
    """2 KL(p‖q)."""

    needs_teacher_logits = True
    crosses_tokenizers = False

    def __call__(self, *, student_logits, teacher_logits, target_ids):
        log_p, log_q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
        return 2 * (log_p.exp() * (log_p - log_q)).sum()
'''
FACTS = "needs_teacher_logits = True\n    crosses_tokenizers = False"
CALL = "def __call__(self, *, student_logits, teacher_logits, target_ids):"
RECIPE = """\
name = "own"
[[tasks]]
type = "maths"
teacher = "{teacher}"
proxy = "{proxy}"
student = "{student}"
queries = 4
steps = 2
max_completion_length = 24
learning_rates = {{ "{objective}" = 0.01 }}

[calibrate]
teachers = {{}}

[distill]
batch_size = 2

[[distill.arms]]
sources = ["plain"]
objectives = ["forward_kl", "{objective}"]

[evaluate]
student_prompts = 4
validate_prompts = 4
teacher_prompts = 4
teacher_samples = 1
resamples = 200
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run and where modules are looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_its_students_are_distilled_evaluated_and_reported(folder: Path, tiny: dict[str, Path]) -> None:
    (folder / "my_objectives.py").write_text(TWICE, encoding="utf-8")
    objective = "my_objectives:TwiceForwardKL"
    (folder / "recipe.toml").write_text(RECIPE.format(objective=objective, **tiny), encoding="utf-8")
    assert "no problems found" in run("validate", "recipe.toml", cwd=folder).stdout
    run("plan", "recipe.toml", cwd=folder)
    run("run", "recipe.toml", "--out", "run", cwd=folder)
    losses = {}
    for name, inside in (("forward_kl", "forward_kl"), (objective, "my_objectives.TwiceForwardKL")):
        lines = (folder / "run" / "distill" / "maths" / "plain" / inside / "q4-s2" / "seed-0" / "metrics.jsonl").read_text().splitlines()
        losses[name] = json.loads(lines[0])["loss"]
    assert losses[objective] == pytest.approx(2 * losses["forward_kl"], rel=1e-3) and losses["forward_kl"] > 0
    rows = read_results(folder / "run" / "results.json").rows
    found = {row.objective for row in rows if row.role == "student" and row.metric == "accuracy" and row.value is not None}
    assert {"forward_kl", objective} <= found
    assert "TwiceForwardKL" in (folder / "run" / "report.md").read_text(encoding="utf-8")


def test_its_sum_and_its_facts(folder: Path) -> None:
    (folder / "twice.py").write_text(TWICE, encoding="utf-8")
    record = record_of("twice:TwiceForwardKL")
    assert (record.formula, record.needs_teacher_logits, record.crosses_tokenizers) == ("2 KL(p‖q).", True, False)
    teacher, student = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.0, 0.0], [0.0, 3.0, 0.0]])
    found = build_objective("twice:TwiceForwardKL")(student_logits=student, teacher_logits=teacher, target_ids=torch.tensor([0, 1]))
    rows = zip(teacher.tolist(), student.tolist(), strict=True)
    assert found.item() == pytest.approx(2 * sum(reference.forward_kl(*row) for row in rows), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("gone", None, "cannot be imported: ModuleNotFoundError"),
        ("raises", "raise OSError('gone')", "cannot be imported: OSError: gone"),
        ("lacks", "class Other: pass", "cannot be imported: AttributeError"),
        ("is_function", "def Mine(): pass", "is not a class but a function"),
        ("needs_more", "class Mine:\n    def __init__(self, weight): pass", "cannot be made without arguments: TypeError"),
        ("without_facts", f"class Mine:\n    {CALL} return 0", "it has no needs_teacher_logits that is True or False"),
        ("facts_alone", f"class Mine:\n    {FACTS}", "cannot be called as f("),
        ("positional", f"class Mine:\n    {FACTS}\n    def __call__(self, logits): return 0", "cannot be called as f("),
    ],
)
def test_what_cannot_be_an_objective_is_refused_before_anything_runs(
    folder: Path, tiny: dict[str, Path], name: str, source: str | None, said: str
) -> None:
    if source is not None:
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE.format(objective=f"{name}:Mine", **tiny), encoding="utf-8")
    for command in ("validate", "run"):
        done = run(command, "recipe.toml", *(("--out", "run") if command == "run" else ()), cwd=folder, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert done.stderr.count(f"objective {name}:Mine") == 1 and said in done.stderr
    assert not (folder / "run" / "traces").exists()


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("mean_free", "return student_logits.sum(-1)", r"returned a tensor of torch.float32, \(2,\)"),
        ("number", "return 1.0", "returned float"),
        ("detached", "return student_logits.detach().sum()", "has no gradient"),
        ("diverged", "return student_logits.sum() * float('nan')", "its sum is nan"),
    ],
)
def test_a_loss_that_is_no_sum_is_refused(folder: Path, name: str, body: str, said: str) -> None:
    (folder / f"{name}.py").write_text(f"class Mine:\n    {FACTS}\n    {CALL}\n        {body}\n", encoding="utf-8")
    objective = build_objective(f"{name}:Mine")
    logits = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(UserError, match=said):
        objective(student_logits=logits, teacher_logits=torch.zeros(2, 3), target_ids=torch.tensor([0, 1]))
