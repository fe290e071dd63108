"""The adapter to lm-eval, on a local task whose scores are worked out here again."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from distillability.cli import app
from distillability.errors import UserError
from distillability.evaluation import lm_eval as module
from distillability.evaluation.lm_eval import _manager, _names_no_other, evaluate_on_tasks
from distillability.models.load import LoadedModel, load_model
from distillability.results import read_results

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("default")  # other people's code, from import to the last metric

TASK = """\
task: %s
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["0", "1", "2", "3"]
doc_to_target: answer
metric_list: [{metric: acc}]
metadata: {version: 1.0}
"""
DOCUMENTS = [{"question": f"{a}+{b}", "answer": (a + b) % 4} for a in range(4) for b in range(4)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tasks, one of which has lost its data; one for all tests, since lm-eval takes long to look through what it knows."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (folder / "sums.yaml").write_text(TASK % ("sums", folder / "data.jsonl"))
    (folder / "lost.yaml").write_text(TASK % ("lost", folder / "lost.jsonl"))
    return folder


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@torch.no_grad()
def _expected(loaded: LoadedModel, *, as_chat: bool) -> float:
    """Accuracy by the likeliest of the four answers, scored one at a time."""
    right = 0
    for document in DOCUMENTS:
        asked = str(document["question"])
        if as_chat:
            turn = [{"role": "user", "content": asked}]
            asked = loaded.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        scores = []
        for choice in "0123":
            prompt, both = (loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, asked + choice))
            logprobs = loaded.model(torch.tensor([both])).logits[0].log_softmax(-1)
            scores.append(sum(float(logprobs[position - 1, both[position]]) for position in range(len(prompt), len(both))))
        right += scores.index(max(scores)) == document["answer"]
    return right / len(DOCUMENTS)


def test_accuracy_of_a_local_task_with_its_interval(tiny: dict[str, Path], tasks: Path) -> None:
    loaded = load_model(tiny["teacher"])
    results = evaluate_on_tasks(loaded, ["sums"], include_path=tasks, role="student")
    (row,) = results.rows
    wanted = _expected(loaded, as_chat=True)
    assert (row.task, row.role, row.metric, row.n) == ("lm_eval:sums", "student", "acc", len(DOCUMENTS))
    assert row.value == pytest.approx(wanted)
    error = math.sqrt(wanted * (1 - wanted) / (len(DOCUMENTS) - 1))
    assert row.ci_low == pytest.approx(wanted - 1.959964 * error) and row.ci_high == pytest.approx(wanted + 1.959964 * error)
    assert results.notes["lm_eval"] == version("lm_eval") and results.notes["task_versions"] == {"sums": 1.0}


def test_a_file_of_a_task_through_the_command_line(tiny: dict[str, Path], tasks: Path) -> None:
    arguments = [str(tasks / "sums.yaml"), str(tiny["student"]), "--limit", "5", "--out", "found.json", "--json"]
    outcome = CliRunner().invoke(app, ["lm-eval", *arguments])
    assert outcome.exit_code == 0, outcome.output
    (row,) = read_results(Path("found.json")).rows
    assert row.n == 5 and not read_results(Path("found.json")).run.complete
    assert json.loads(outcome.stdout.splitlines()[-1])["rows"][0]["value"] == row.value


def test_a_task_that_is_none_and_data_that_is_not_there(tiny: dict[str, Path], tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(tiny["student"])
    monkeypatch.setattr(module, "_manager", lambda folder, include_defaults: _manager(folder, include_defaults=False))
    with pytest.raises(UserError, match="did you mean 'sums'"):
        evaluate_on_tasks(loaded, ["sumss"], include_path=tasks)
    with pytest.raises(UserError, match="the data cannot be had"):
        evaluate_on_tasks(loaded, ["lost"], include_path=tasks)


def test_a_model_without_a_template_is_evaluated_as_plain_text(tiny: dict[str, Path], tasks: Path) -> None:
    loaded = load_model(tiny["teacher"])
    loaded.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        evaluate_on_tasks(loaded, ["sums"], include_path=tasks)
    (row,) = evaluate_on_tasks(loaded, ["sums"], include_path=tasks, as_chat=False).rows
    assert row.value == pytest.approx(_expected(loaded, as_chat=False))


@pytest.mark.parametrize(("names", "read"), [(["sums"], [False]), (["sums.yaml"], [False]), (["sums", "arc_easy"], [False, True])])
def test_what_lm_eval_brings_along_is_read_where_a_folder_lacks_a_task(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], read: list[bool]
) -> None:
    found = []

    def manager(folder: str | None, *, include_defaults: bool) -> Any:
        found.append(include_defaults)
        return _manager(folder, include_defaults=False)

    monkeypatch.setattr(module, "_manager", manager)
    monkeypatch.chdir(tasks)
    module._index_for(names, tasks)
    assert found == read


@pytest.mark.slow
def test_lm_eval_s_own_tasks_are_known_by_name() -> None:
    assert "arc_easy" in module._index_for(["arc_easy"], None).all_tasks


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("task: sums\noutput_type: generate_until\n", True),
        ("group: both\ntask:\n  - sums\n  - arc_easy\n", False),
        ("task: [sums, arc_easy]\n", False),
        ("task:\n- sums\n", False),
    ],
)
def test_only_a_file_of_one_task_goes_without_what_lm_eval_knows(tmp_path: Path, text: str, alone: bool) -> None:
    (tmp_path / "file.yaml").write_text(text)
    assert _names_no_other(tmp_path / "file.yaml") is alone
