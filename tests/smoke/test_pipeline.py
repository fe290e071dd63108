"""The real command line on the lab's models: two steps of everything, and a run that is killed twice and resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from command_line import ROOT, SMOKE, invoke, run, without_times
from distillability.results import read_results
from processes import start_process


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "smoke"
    run("run", str(SMOKE), "--out", str(folder))
    return folder


def test_every_row_that_the_recipe_asks_for_is_there(smoke: Path) -> None:
    results = read_results(smoke / "results.json")
    assert results.run.complete
    students = {(row.source, row.objective) for row in results.rows if row.role == "student" and row.metric == "accuracy"}
    assert {("plain", objective) for objective in ("seqkd", "forward_kl", "reverse_kl", "jsd")} <= students
    assert {(source, objective) for source in ("distillable", "undistillable") for objective in ("seqkd", "forward_kl")} <= students
    for control in ("plain_best_of_8", "gold_steps", "undistillable_few_shot", "undistillable_likeliest_of_8", "answer_only"):
        assert (control, "seqkd") in students
    teachers = {row.source for row in results.rows if row.role == "teacher" and row.split == "test"}
    assert teachers == {"plain", "distillable", "undistillable", "knob_0", "length_only_up"}
    metrics = {row.metric for row in results.rows}
    assert {"anchor_nats", "nats_per_byte_under_plain", "kept", "gap_closed", "difference_to_plain", "headline_up"} <= metrics
    assert {"elicited_yield", "oracle_elicited_yield", "yield", "teacher_right_steps_change"} <= metrics


def test_the_report_is_there_and_can_be_made_again(smoke: Path) -> None:
    before = (smoke / "report.html").read_text()
    assert "<script src" not in before
    run("report", str(smoke))
    assert (smoke / "report.md").is_file()
    assert (smoke / "report.html").read_text() == before
    assert json.loads(run("show", str(smoke), "--json").stdout)


def test_saved_teachers_load_in_plain_transformers(smoke: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smoke / "calibrate" / "maths" / "distillable" / "seed-0" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "1+1+1+1+1"}], add_generation_prompt=True, return_tensors="pt")
    ids = ids if hasattr(ids, "shape") else ids["input_ids"]
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]
    assert "knob | +1" in (folder / "README.md").read_text()


def test_a_folder_in_use_is_refused(smoke: Path) -> None:
    done = run("run", str(SMOKE), "--out", str(smoke), check=False)
    assert done.returncode == 2
    assert "--resume" in done.stdout + done.stderr


def test_a_proxy_that_fails_admission_stops_before_training_unless_forced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    untrained = ["--set=tasks.maths.proxy='lab:maths/student_steps'", *SMALL]
    done = run("calibrate", str(SMOKE), "--out", str(folder), *untrained, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "fails admission" in said
    assert "fix:" in said
    assert not list(folder.glob("calibrate/maths/distillable"))
    run("calibrate", str(SMOKE), "--out", str(folder), "--resume", "--force", *untrained)
    assert json.loads((folder / "recipe.json").read_text())["calibrate"]["force"] is True


SMALL = [
    "--set=distill.arms=[{sources=['plain','distillable'],objectives=['forward_kl']}]",
    "--set=calibrate.teachers={distillable={knob=1.0}}",
    "--set=calibrate.max_steps=4",
    "--set=calibrate.save_steps=1",
    "--set=tasks.0.steps=40",
    "--set=distill.save_steps=10",
]


def test_a_run_killed_in_calibrate_and_in_distil_resumes_to_the_same_results(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("run", str(SMOKE), "--out", str(whole), *SMALL)
    _kill_when(killed, "calibrate/maths/distillable/seed-0/checkpoints/checkpoint-2/trainer_state.json")
    assert not (killed / "calibrate/maths/distillable/seed-0/done.json").exists()
    _kill_when(killed, "distill/maths/plain/forward_kl/q16-s40/seed-0/checkpoints/checkpoint-10/trainer_state.json")
    run("run", str(SMOKE), "--out", str(killed), "--resume", *SMALL)
    assert without_times(killed) == without_times(whole)


def _kill_when(folder: Path, sign: str) -> None:
    """Start or resume the run and kill it, not politely, as soon as a file is there."""
    process = start_process(invoke, "run", str(SMOKE), "--out", str(folder), "--resume", *SMALL, cwd=ROOT)
    deadline = time.monotonic() + 240
    while not (folder / sign).exists():
        assert process.exitcode is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, f"{sign} never appeared"
        time.sleep(0.005)
    process.kill()
    process.join()


@pytest.mark.slow
def test_the_other_families_run_too(tmp_path: Path) -> None:
    """Students with a tokenizer of their own, and a family whose teacher answers without steps as well."""
    run("run", str(SMOKE.with_name("families.toml")), "--out", str(tmp_path / "run"))
    results = read_results(tmp_path / "run" / "results.json")
    students = {(row.task, row.source) for row in results.rows if row.role == "student" and row.metric == "accuracy"}
    sources = ("none", "plain", "undistillable", "undistillable_prefilled_oracle", "answer_only")
    assert students >= {(task, source) for task in ("knowledge", "instructions") for source in sources}
    plain = {row.task: row.value for row in results.rows if row.source == "plain" and row.role == "teacher" and row.metric == "right_steps"}
    assert all(value is not None and value > 0.6 for value in plain.values()) and len(plain) == 2
