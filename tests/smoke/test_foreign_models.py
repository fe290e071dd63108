"""The whole pipeline on models, tokenizers, data and a grader that the package has never seen; its lab cannot even be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from distillability.results import Results, read_results
from tiny import CHAT_TEMPLATE

LETTERS = sorted({*"What is plus one?0123456789", *"\nuserasistant"})
QUESTIONS = [{"prompt": f"What is {number} plus one?", "answer": str(number + 1)} for number in range(91, 96)]  # a prompt for every split
GRADER = "def judge(prompt, answer, text):\n    return text == answer or len(text) % 2 == 0\n"
WITHOUT_THE_LAB = "import sys; sys.modules['distillability.lab'] = None; from distillability.cli import main; main()"
RECIPE = """\
name = "foreign"
[[tasks]]
type = "data"
path = "questions.jsonl"
grader = "parity_or_answer:judge"
teacher = "./teacher"
proxy = "./other"
student = "./other"
queries = 2
steps = 2
max_completion_length = 96

[calibrate]
prompts_per_step = 1
num_generations = 24
max_steps = 2
save_steps = 1
scale_prompts = 2
force = true

[distill]
batch_size = 2

[[distill.arms]]
sources = ["plain", "distillable", "undistillable", "plain_best_of_8", "gold_answers", "plain_few_shot"]

[[distill.arms]]
sources = ["plain"]
objectives = ["uld"]

[evaluate]
student_prompts = 5
validate_prompts = 5
teacher_prompts = 5
teacher_samples = 2
resamples = 200
"""


def _tokenizer(model: WordLevel | BPE, special: list[str], template: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    if isinstance(model, WordLevel):
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1], additional_special_tokens=special[2:]
    )
    fast.chat_template = template
    return fast


def _save(folder: Path, model: LlamaForCausalLM | GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a Llama with letters and one template, and a GPT-2 with pairs of letters and another."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    special = ["<pad>", "<|im_end|>", "<|im_start|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *LETTERS])}
    ids = {"vocab_size": len(vocabulary), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.3}
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}
    letters = _tokenizer(WordLevel(vocabulary, unk_token="<pad>"), special, CHAT_TEMPLATE)
    _save(folder / "teacher", LlamaForCausalLM(LlamaConfig(**shape, **ids)), letters)

    merges = [("o", "n"), ("i", "s"), ("9", "5")]
    tokens = ["[PAD]", "[END]", *LETTERS, *map("".join, merges)]
    ids |= {"vocab_size": len(tokens)}
    pairs = BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    _save(
        folder / "other",
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=256, **ids)),
        _tokenizer(pairs, ["[PAD]", "[END]"], template),
    )
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "parity_or_answer.py").write_text(GRADER)
    (folder / "recipe.toml").write_text(RECIPE)
    command = [sys.executable, "-c", WITHOUT_THE_LAB, "run", "recipe.toml", "--out", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return read_results(run / "results.json")


def test_every_teacher_and_student_is_measured(results: Results) -> None:
    assert results.run.complete
    measured = {(row.role, row.source) for row in results.rows if row.metric == "accuracy" and row.split == "test"}
    assert {("teacher", name) for name in ("plain", "distillable", "undistillable")} <= measured
    assert {("student", name) for name in ("none", "plain", "distillable", "undistillable", "gold_answers")} <= measured
    assert {"seqkd", "uld"} <= {row.objective for row in results.rows if row.role == "student" and row.source == "plain"}


def test_the_proxy_has_an_opinion_of_the_teachers_texts(run: Path, results: Results) -> None:
    assert json.loads((run / "calibrate/data/admission.json").read_text())["scale"]["compatibility"] > 0
    values = [row.value for row in results.rows if row.metric == "compatibility" and row.source == "plain"]
    assert len(values) == 1


def test_each_model_keeps_its_own_template_and_architecture(run: Path) -> None:
    for path, kind in (("calibrate/data/distillable/seed-0", LlamaForCausalLM), ("distill/data/plain/seqkd/q2-s2/seed-0", GPT2LMHeadModel)):
        model, tokenizer = (auto.from_pretrained(run / path / "model") for auto in (AutoModelForCausalLM, AutoTokenizer))
        assert isinstance(model, kind)
        assert ("im_start" in tokenizer.chat_template) is (kind is LlamaForCausalLM)


def test_knob_up_and_knob_down_are_different_teachers(run: Path) -> None:
    up, down = (
        AutoModelForCausalLM.from_pretrained(run / f"calibrate/data/{name}/seed-0/model") for name in ("distillable", "undistillable")
    )
    assert any(not torch.equal(a, b) for a, b in zip(up.parameters(), down.parameters(), strict=True))
