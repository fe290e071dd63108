"""Collecting evidence on tiny models, errors planted in right texts, and how a diagnosis is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from _synthetic_run import write_run

import distillability
from distillability.config.recipe import Diagnose
from distillability.diagnosis import Diagnosis, find
from distillability.diagnosis.collect import add_symptoms, draw_all, read_all
from distillability.diagnosis.forward import Pair, trace, vocabulary_difference
from distillability.files import write_json
from distillability.lab.tokenizers import character_tokenizer
from distillability.models.load import LoadedModel, load_model
from distillability.ops.logprobs import token_logprobs
from distillability.report import build_report
from distillability.tasks import CrossedModes, Instructions, Knowledge, Maths
from distillability.tasks.base import Task
from distillability.types import Prompt
from tiny import Parity, tiny_model

SMALL = Diagnose(prompts=24, weight_prompts=2, weight_samples=60, probe_steps=2, probe_traces=8)
LENGTH = 60  # random models end most of their texts before it


class Digits(Parity):
    """As parity, with answers of several characters, so that errors can be planted and answers be told from steps."""

    def answer_only(self, text: str) -> str | None:
        return text[-1:] or None

    def plant_error(self, prompt: Prompt, text: str) -> str | None:
        return text[:1] or None

    def gold_steps(self, prompt: Prompt) -> str | None:
        return "12"

    def wrong_steps(self, prompt: Prompt) -> str | None:
        return "123"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer, other = character_tokenizer(Maths.alphabet), character_tokenizer(Maths.alphabet[::-1])
    return {
        "teacher": load_model(tiny_model(folder / "teacher", tokenizer, seed=1, layers=2)),
        "student": load_model(tiny_model(folder / "student", tokenizer, seed=3)),
        "stranger": load_model(tiny_model(folder / "stranger", other, seed=3)),
    }


def paired(models: dict[str, LoadedModel], student: str = "student", task: Task | None = None) -> Pair:
    return Pair(models["teacher"], models[student], task or Digits(), SMALL, max_completion_length=LENGTH, seed=0)


def test_what_was_said_along_a_text_is_what_one_forward_pass_says(models: dict[str, LoadedModel]) -> None:
    pair = paired(models)
    drawn = draw_all(pair)
    traced = trace(pair, "teacher", pair.prompts, drawn.own["teacher"])
    tokenizer = pair.teacher.tokenizer
    for row in (0, 7, 23):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": pair.prompts[row].text}], add_generation_prompt=True, tokenize=False
        )
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        cut = drawn.own["teacher"].truncated[row]
        answer = [*drawn.own["teacher"].ids[row], *([] if cut else [tokenizer.eos_token_id])]
        with torch.inference_mode():
            logits = pair.student.model(torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1]
        expected = token_logprobs(logits, torch.tensor(answer))
        assert traced.student.logprob[traced.student.text == row] == pytest.approx(expected.numpy(), abs=1e-5)
        assert traced.compared is not None
        places = traced.compared.text == row
        assert traced.compared.place[places] == pytest.approx(np.arange(len(answer)) / len(answer))
        assert "".join(np.array(traced.compared.token, dtype=object)[places]) == tokenizer.decode(drawn.own["teacher"].ids[row])


def test_chunks_and_batches_change_nothing(models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = paired(models)
    drawn = draw_all(pair)
    whole = read_all(pair, drawn)
    monkeypatch.setattr("distillability.diagnosis.forward._BATCH_TOKENS", 40)
    monkeypatch.setattr("distillability.diagnosis.forward._CHUNK_ELEMENTS", 60)
    parts = read_all(pair, drawn)
    assert whole.on_student.compared is not None and parts.on_student.compared is not None
    for name in ("text", "forward_kl", "second_moment", "curve"):
        assert getattr(parts.on_student.compared, name) == pytest.approx(getattr(whole.on_student.compared, name), rel=1e-4, abs=1e-6)


def test_a_model_against_itself_has_no_gap(models: dict[str, LoadedModel]) -> None:
    pair = paired(models, student="teacher")
    diagnosis = Diagnosis("t", "t", "digits", find(read_all(pair, draw_all(pair)), symptoms=False))
    assert diagnosis["noise_share"].value is None
    for name in ("kl_drift", "second_moment", "log_ratio", "log_effective_share", "wrong_trace_preference"):
        assert diagnosis[name].value == pytest.approx(0, abs=1e-6), name


def test_other_vocabularies_leave_what_needs_no_common_one(models: dict[str, LoadedModel]) -> None:
    assert vocabulary_difference(models["teacher"], models["student"]) is None
    assert "have another id" in str(vocabulary_difference(models["teacher"], models["stranger"]))
    pair = paired(models, student="stranger")
    diagnosis = Diagnosis("t", "s", "digits", find(read_all(pair, draw_all(pair)), symptoms=False))
    for name in ("teacher_nll_drift", "log_ratio", "log_effective_share", "wrong_trace_preference"):
        assert diagnosis[name].value is not None, name
    for name in ("tail_share", "kl_drift", "top_k_overlap"):
        assert diagnosis[name].value is None and "different vocabularies" in diagnosis[name].sentence


def test_symptoms_are_measured_on_what_a_student_answers() -> None:
    pair = Pair(load_model("lab:maths/teacher"), load_model("lab:maths/proxy"), Maths(), SMALL, max_completion_length=44, seed=0)
    drawn = draw_all(pair)
    evidence = read_all(pair, drawn)
    add_symptoms(pair, drawn, evidence)
    answers = evidence.answers["student"]
    complete = answers.truncated == 0
    assert complete.any() and np.isfinite(answers.confidence[complete]).all() and np.isnan(answers.confidence[~complete]).all()
    assert ((answers.confidence[complete] > 0) & (answers.confidence[complete] <= 1)).all()
    assert len(evidence.recoveries["teacher"].recovered) == len(evidence.recoveries["student"].recovered) > 0
    assert {finding.name for finding in find(evidence, symptoms=True)} >= {"confidence_when_wrong", "lost_recovery", "misplaced_tokens"}


def test_forwards_are_counted_and_at_most_three_a_text(models: dict[str, LoadedModel]) -> None:
    pair = paired(models)
    read_all(pair, draw_all(pair))
    n, many = SMALL.prompts, SMALL.weight_prompts * SMALL.weight_samples
    # Drawn: one or two a prompt and the many; read: two texts a prompt, the many once, pairs of at most three sources.
    assert pair.forwards["teacher"] <= 2 * n + many + 2 * n + many + 6 * n
    assert n + 2 * n <= pair.forwards["student"] <= n + 2 * n + many + 6 * n


def test_diagnose_trains_a_probe_only_before_distillation(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    student = tiny_model(tmp_path / "student", models["teacher"].tokenizer, seed=5)
    how = {"settings": SMALL, "max_completion_length": LENGTH, "batch_size": 4}
    before = distillability.diagnose(models["teacher"], str(student), Digits(), **how)
    assert before.probe is not None and before.probe["steps"] == 2 and before.cost["seconds"] > 0
    after = distillability.diagnose(models["teacher"], str(student), Digits(), distilled=True, **how)
    assert after.probe is None and after["brier"].name == "brier"
    with pytest.raises(KeyError):
        before["brier"]
    json.dumps(before.as_dict(), allow_nan=False)


FAMILIES = (Maths(), Knowledge(), Instructions())


@pytest.mark.parametrize("task", FAMILIES, ids=lambda task: task.name)
def test_planted_errors_are_wrong_beginnings_in_the_mode_of_the_text(task: CrossedModes) -> None:
    for prompt in task.prompts("validate", 20):
        for mode in task.modes:
            text = task.render(prompt, mode)
            planted = task.plant_error(prompt, text)
            if mode == "answer_only":
                assert planted is None
                continue
            assert planted is not None and not text.startswith(planted)
            common = next(place for place in range(len(planted)) if not text.startswith(planted[: place + 1]))
            assert len(text) > len(planted) and text[:common] == planted[:common]
            assert task.plant_error(prompt, text + "x") is None  # not a right text


def test_without_a_task_s_own_way_a_number_before_the_last_is_changed() -> None:
    task = Parity()
    prompt = task.prompts("validate", 1)[0]
    assert task.plant_error(prompt, "2+3 = 5, 5*2=10, so 10 + 1 = 11, and the answer is 11") == "2+3 = 5, 5*2=11"
    assert task.plant_error(prompt, "1. 48/2 = $24\n2. 48*24 = 1,152\nAnswer: 1,152") == "1. 48/2 = $24\n2. 48*24 = 1153"
    assert task.plant_error(prompt, "1/4 = 0.25, so 2") is None  # no whole number
    assert task.plant_error(prompt, "2 and 3 are 5, so 9") is None
    assert task.plant_error(prompt, "it is 9") is None


def test_a_report_shows_a_diagnosis_and_escapes_what_models_said(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    pair = paired(models)
    drawn = draw_all(pair)
    evidence = read_all(pair, drawn)
    add_symptoms(pair, drawn, evidence)
    folder = write_run(tmp_path / "run", curves=False)
    common = {"task": "maths", "calibration": None, "knob": None, "seed": None}
    traps = Diagnosis("t", "s", "maths", find(evidence, symptoms=False), {"seconds": 3.0, "forwards": {}}).as_dict()
    both = Diagnosis("t", "s", "maths", find(evidence, symptoms=True), {"seconds": 3.0, "forwards": {}}).as_dict()
    for finding in traps["findings"]:
        for line in finding["details"].get("worst", []):
            line["before"] = "<script>alert(1)</script>"
    write_json(folder / "diagnose/maths/plain/before.json", traps | common | {"source": "plain", "objective": None})
    write_json(folder / "diagnose/maths/plain/seqkd/seed-0.json", both | common | {"source": "plain", "objective": "seqkd"})
    page = build_report(folder).read_text(encoding="utf-8")
    assert "What awaits students of each teacher" in page and "students that were distilled" in page
    assert "<script>alert(1)" not in page
    assert (folder / "figures" / "traps.png").is_file() and (folder / "figures" / "symptoms.png").is_file()
    assert "### Diagnosis" in (folder / "report.md").read_text(encoding="utf-8")
