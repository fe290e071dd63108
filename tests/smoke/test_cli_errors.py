"""Bad input through the real command line: one clear message, exit code 2, nothing computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from typer.testing import CliRunner

from distillability.cli import app
from distillability.cli.stages import STAGE_VERBS
from distillability.results import Results, RunInfo, write_results
from tiny import tiny_gguf

CHARACTERS = "0123456789+-*=;#>so:"
ESCAPE = "\x1b[31m\x9b\u202e"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_model(path: Path, **changes: Any) -> Path:
    """A folder that looks like a chat model; `vocabulary`, `template`, `weights` and keys of config.json may be changed."""
    path.mkdir(parents=True)
    vocabulary = {character: index for index, character in enumerate(changes.pop("vocabulary", CHARACTERS))}
    Tokenizer(models.BPE(vocab=vocabulary, merges=[])).save(str(path / "tokenizer.json"))
    template = changes.pop("template", "{{ messages }}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    for name in changes.pop("weights", ["model.safetensors"]):
        (path / name).write_bytes(b"")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32, "max_position_embeddings": 128} | changes
    (path / "config.json").write_text(json.dumps(config))
    return path


def make_recipe(task: dict[str, Any] | None = None, rest: str = "", **remade: dict[str, Any]) -> str:
    """A recipe over three good models, of which some are made otherwise, and a task with some keys set otherwise."""
    for role in ("teacher", "proxy", "student"):
        make_model(Path(role), **remade.get(role, {}))
    keys = {"type": "maths", "teacher": "./teacher", "proxy": "./proxy", "student": "./student"}
    keys |= {"queries": 20, "steps": 5, "max_completion_length": 40} | (task or {})
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    Path("recipe.toml").write_text(f'name = "example"\n[[tasks]]\n{lines}\n{rest}\n', encoding="utf-8")
    return "recipe.toml"


def invoke(*arguments: str, code: int = 2) -> str:
    """What the command line prints to a person; it must leave with `code` and without a traceback."""
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == code, outcome.output + repr(outcome.exception)
    assert "Traceback" not in outcome.output
    return outcome.output if code == 0 else outcome.stderr


def arms(text: str) -> str:
    return f"[[distill.arms]]\n{text}"


def jsonl(*rows: Any) -> dict[str, Any]:
    Path("data.jsonl").write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return {"type": "data", "path": "data.jsonl"}


def questions(n: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {index}?", "answer": str(index)} for index in range(n)]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Put a function in the place of the stages."""

    def put(function: Callable[..., None]) -> None:
        module = types.ModuleType("distillability.stages.run")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "distillability.stages.run", module)

    return put


# What is right passes


def test_a_good_recipe_passes() -> None:
    assert "no problems found" in invoke("validate", make_recipe(), code=0)


def test_a_good_jsonl_recipe_passes() -> None:
    assert "no problems found" in invoke("validate", make_recipe(jsonl(*questions(100)), arms('sources = ["plain"]')), code=0)


# The recipe


def test_an_unknown_key() -> None:
    message = invoke("validate", make_recipe({"querys": 3}))
    assert "recipe.toml:10: tasks.0.querys: unknown key" in message and "did you mean 'queries'?" in message


def test_a_missing_recipe() -> None:
    assert "nowhere.toml: there is no such recipe" in invoke("run", "nowhere.toml")


def test_a_group_of_one() -> None:
    message = invoke("run", make_recipe(), "--set", "calibrate.num_generations=1")
    assert "num_generations" in message and "2 or more" in message
    assert not Path("runs").exists()


def test_an_unknown_source() -> None:
    message = invoke("validate", make_recipe(rest=arms('sources = ["plain", "undistilable", "distillable_few_shot"]')))
    assert "distill.arms.0.sources: unknown source 'undistilable'" in message and "did you mean 'undistillable'?" in message
    assert "there is 1 problem" in message


def test_logits_of_gold_texts() -> None:
    message = invoke("validate", make_recipe(rest=arms('sources = ["gold_steps"]\nobjectives = ["seqkd", "jsd"]')))
    assert "jsd on gold_steps" in message and "seqkd" in message


def test_budgets_that_are_no_budgets() -> None:
    message = invoke("validate", make_recipe(rest=arms('sources = ["plain"]\nqueries = [0.0]\nsteps = []\ncalibrations = 2')))
    for key in ("queries", "steps", "calibrations"):
        assert f"distill.arms.0.{key}: " in message


@pytest.mark.parametrize("name", ["gold_steps", "plain", "none", "sweep", "../x", ""])
def test_names_of_teachers_that_cannot_be(name: str) -> None:
    assert f"calibrate.teachers.{name}: " in invoke("validate", make_recipe(rest=f'[calibrate.teachers."{name}"]\nknob = 1'))


def test_a_name_under_which_another_s_further_calibrations_are_kept() -> None:
    teachers = "[calibrate]\ncalibrations = {}\nteachers.down.knob = -1\nteachers.down-2.knob = -2\n" + arms('sources = ["plain"]')
    message = invoke("validate", make_recipe(rest=teachers.format(3)))
    assert "calibrate.teachers.down-2: 'down-2' is also where a further calibration of 'down' is kept" in message


def test_a_teacher_s_name_that_reads_as_a_way_of_asking() -> None:
    message = invoke("validate", make_recipe(), "--set", "calibrate.teachers={red_hot={knob=1.0}}")
    assert "calibrate.teachers.red_hot: 'red_hot' reads as a way of asking a teacher 'red'" in message
    Path("teacher").rename("gone")
    assert "down-2:" not in invoke("validate", "recipe.toml", "--set", "calibrate.calibrations=2")


def test_a_step_that_is_not_made_of_whole_micro_batches() -> None:
    recipe = make_recipe(rest=arms('sources = ["plain"]'))
    message = invoke("validate", recipe, "--set", "calibrate.per_device_train_batch_size=100")
    assert "a step of 32 x 8 completions is not a multiple of 100" in message and "use 64" in message
    for size in ("64", "1000"):
        invoke("validate", recipe, "--set", f"calibrate.per_device_train_batch_size={size}", code=0)


def test_learning_rates_that_are_none() -> None:
    assert "learning_rates.seqkd" in invoke("validate", make_recipe(), "--set", "tasks.maths.learning_rates.seqkd=-1e-3")


def test_texts_of_the_student_s_own_that_nobody_speaks_of() -> None:
    message = invoke("validate", make_recipe(rest=arms('sources = ["plain"]\nobjectives = ["seqkd", "jsd", "uld"]\non_policy_share = 0.5')))
    assert "distill.arms.0.on_policy_share: seqkd, uld have no teacher signal" in message


def test_former_names_of_the_objective_across_tokenizers() -> None:
    rest = arms('sources = ["plain"]\nobjectives = ["universal"]') + "\n[distill]\nuniversal_weight = 1.0"
    message = invoke("validate", make_recipe(rest=rest))
    assert "distill.arms.0.objectives.0: the objective 'universal' has a new name" in message and "write 'uld'" in message
    message = invoke("validate", "recipe.toml", "--set", 'distill.arms=[{sources=["plain"]}]', "--set", "distill.universal_weight=2.0")
    assert "distill.universal_weight: the key has a new name" in message and "write uld_weight" in message


def test_one_token_that_both_models_are_certain_of() -> None:
    message = invoke("validate", make_recipe(rest="[distill]\ntop_k = 1\ntop_k_rest = false"))
    assert "top_k = 1 without top_k_rest" in message


def test_a_plan_of_an_unknown_source() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    models: dict[str, Any] = dict.fromkeys(("teacher", "proxy", "student"), sizes)
    message = invoke("plan", make_recipe(rest=arms('sources = ["distilable"]'), **models), "--hardware", "h100")
    assert "distill.arms: distilable: unknown source" in message


# A sweep


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ("-1,x,1", "sweep.knobs.1: should be a valid number, not 'x'"),
        ("-1,,1", "sweep.knobs.1: should be a valid number"),
        ("-1,nan", "sweep.knobs.1: should be a finite number"),
        ("", "sweep.knobs: List should have at least 2 items, not 0"),
        ("0.3", "sweep.knobs: List should have at least 2 items, not 1"),
        ("0.1,0.10,-0.0,0", "sweep.knobs: each value once, but 0, 0.1 is there twice or more"),
    ],
)
def test_knobs_that_are_no_knobs(knobs: str, expected: str) -> None:
    message = invoke("sweep", make_recipe(), "--knobs", knobs)
    assert expected in message and "or --knobs -1,-0.1,0,0.1,1" in message and "there is 1 problem" in message
    assert not Path("runs").exists()


def test_a_sweep_section_is_strict_and_says_where_it_is_wrong() -> None:
    message = invoke("validate", make_recipe(rest='[sweep]\nknobs = [0, 0]\nobjectives = []\nseed = 3\nends_objectives = ["jds"]'))
    assert "there are 4 problems" in message
    assert "recipe.toml:11: sweep.knobs: each value once, but 0 is there twice" in message
    assert "sweep.objectives: List should have at least 1 item" in message
    assert "sweep.seed: unknown key" in message and "did you mean 'seeds'?" in message
    assert "recipe.toml:14: sweep.ends_objectives.0: 'jds' is none of" in message and "did you mean 'jsd'?" in message


def test_validate_sees_what_only_the_sweep_would_run() -> None:
    section = '[sweep]\nends_objectives = ["jsd"]'
    recipe = make_recipe(rest=section, student={"vocabulary": CHARACTERS + "x"})
    assert "jsd compare logits token by token" in invoke("validate", recipe)
    assert "jsd compare logits token by token" in invoke("sweep", recipe)
    Path(recipe).write_text(Path(recipe).read_text(encoding="utf-8").replace(section, ""), encoding="utf-8")
    invoke("validate", recipe, code=0)


def test_a_sweep_makes_its_own_teachers_and_arms() -> None:
    message = invoke("sweep", make_recipe(), "--set", "distill.arms.0.seeds=2", "--set", "calibrate.teachers.up.knob=x")
    assert "--set distill.arms.0.seeds=2: a sweep makes its own teachers and arms" in message and "sweep.seeds" in message
    assert "calibrate.teachers.up.knob: should be a valid number" in message


def test_sweep_runs_every_stage_of_the_derived_recipe(stages: Callable[[Callable[..., None]], None]) -> None:
    seen: list[tuple[list[str], tuple[str, ...]]] = []
    stages(lambda recipe, folder, *, stages, quiet: seen.append((list(recipe.calibrate.teachers), stages)))  # type: ignore[arg-type]
    recipe = make_recipe()
    invoke("sweep", recipe, "--knobs", "-0.3,1,0", "--quiet", code=0)
    assert seen == [(["knob_-0.3", "knob_0", "knob_1"], ("calibrate", "distill", "diagnose", "evaluate", "report"))]
    for verb, target in (("sweep", "runs/example-sweep"), ("distill", "runs/example-sweep")):
        invoke(verb, target, "--quiet", code=0)
    message = invoke("sweep", recipe, "--knobs", "-0.3,1,0.5", "--resume")
    assert "the recipe has changed since the run began: sweep.knobs.2 (0.0 in the run, 0.5 now)\n" in message
    assert "distillability sweep runs/example-sweep --resume" in stopped("sweep", recipe, stages)


def stopped(verb: str, recipe: str, stages: Callable[[Callable[..., None]], None]) -> str:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stages(stop)
    return invoke(verb, recipe, "--knobs", "-0.3,1,0", "--resume", code=130)


# The models


def test_a_missing_model_folder() -> None:
    message = invoke("validate", make_recipe({"teacher": "./nowhere/model"}))
    assert "tasks.maths.teacher = ./nowhere/model: there is no such model folder" in message


def test_an_unknown_lab_model() -> None:
    assert "lab:maths/techer: there is no such lab model" in invoke("validate", make_recipe({"teacher": "lab:maths/techer"}))


def test_a_lab_model_cannot_reach_outside_the_lab() -> None:
    assert "there is no such lab model" in invoke("validate", make_recipe({"teacher": "lab:../../stages"}))


def test_a_folder_that_is_no_model() -> None:
    Path("empty").mkdir()
    assert "./empty: not a model: the folder has no config.json" in invoke("validate", make_recipe({"proxy": "./empty"}))


def test_a_file_in_the_place_of_a_model() -> None:
    Path("model.bin").touch()
    assert "a file, not a model folder" in invoke("validate", make_recipe({"proxy": "./model.bin"}))


def test_a_gguf_that_is_none() -> None:
    Path("model.gguf").touch()
    message = invoke("run", make_recipe({"teacher": "./model.gguf", "proxy": "./other.gguf"}))
    assert "tasks.maths.teacher = model.gguf: not a GGUF file" in message
    assert "tasks.maths.proxy = ./other.gguf: there is no such file" in message
    assert not Path("runs").exists()


def test_converting_what_is_no_gguf() -> None:
    Path("model.gguf").touch()
    assert "model.gguf: not a GGUF file" in invoke("convert", "model.gguf", "folder")
    assert "missing.gguf: there is no such file" in invoke("convert", "missing.gguf", "folder")
    assert not Path("folder").exists()


def test_converting_into_a_folder_that_exists() -> None:
    Path("folder").mkdir()
    assert "folder: it exists already" in invoke("convert", "model.gguf", "folder")


def test_converting_prints_what_it_did() -> None:
    tiny_gguf(Path("model.gguf"))
    assert "fixed: digits stand alone) to folder" in invoke("convert", "model.gguf", "folder", code=0)
    assert json.loads(invoke("convert", "model.gguf", "again", "--json", code=0))["fixed"] == ["digits stand alone"]
    assert "no problems found" in invoke("validate", make_recipe({"teacher": "./folder", "proxy": "./model.gguf"}), code=0)


def test_a_gguf_of_another_vocabulary_than_its_teacher() -> None:
    tiny_gguf(Path("model.gguf"))
    message = invoke("validate", make_recipe({"student": "./model.gguf"}, arms('sources = ["plain"]\nobjectives = ["forward_kl"]')))
    assert "tasks.maths.student = ./model.gguf: forward_kl compare logits token by token, but the teacher has 20 tokens" in message


def test_a_config_that_is_not_json() -> None:
    recipe = make_recipe()
    Path("proxy/config.json").write_text("{")
    assert "config.json is not readable as JSON" in invoke("validate", recipe)


def test_a_model_without_weights() -> None:
    assert "the folder has no *.safetensors" in invoke("validate", make_recipe(teacher={"weights": []}))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights(name: str) -> None:
    message = invoke("validate", make_recipe(teacher={"weights": [name]}))
    assert name in message and "can run code when loaded" in message and "save_pretrained" in message


def test_a_student_that_starts_from_random_weights_needs_none() -> None:
    recipe = make_recipe(student={"weights": []})
    assert "no *.safetensors" in invoke("validate", recipe)
    invoke("validate", recipe, "--set", "distill.student_init=random", code=0)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "bert", "architectures": ["BertModel"]},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
    ],
)
def test_models_that_do_not_continue_texts(config: dict[str, Any]) -> None:
    message = invoke("validate", make_recipe(teacher=config))
    assert config["architectures"][0] in message and "causal language model" in message


def test_no_chat_template() -> None:
    assert "tasks.maths.student = ./student: no chat template" in invoke("validate", make_recipe(student={"template": None}))
    assert 'chat_template = "plain"' in invoke("validate", "recipe.toml"), "it says how to fix"
    invoke("validate", "recipe.toml", "--set", "chat_template=plain", code=0)
    assert "chat_template = my.jinja: there is no such file" in invoke("validate", "recipe.toml", "--set", "chat_template=my.jinja")
    (Path("student") / "chat_template.jinja").write_text("{{ messages }}")
    invoke("validate", "recipe.toml", code=0)


def make_adapter(path: Path, base: str) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    _with_layers(path / "adapter_model.safetensors", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    return path


def test_an_adapter_is_the_model_that_it_changes() -> None:
    recipe = make_recipe({"teacher": "./adapter"}, rest='[calibrate.lora]\ntarget_modules = ["q_proj", "qproj"]')
    make_adapter(Path("adapter"), "./teacher")
    _with_layers(Path("teacher/model.safetensors"), "model.layers.0.self_attn.q_proj.weight")
    message = invoke("validate", recipe)
    assert "there is 1 problem" in message and "./adapter has no linear layers of the name 'qproj'" in message
    Path("teacher/model.safetensors").unlink()
    assert "tasks.maths.teacher = ./adapter: the folder has no *.safetensors" in invoke("validate", recipe)


def test_an_adapter_whose_model_is_gone() -> None:
    make_adapter(Path("adapter"), "./nowhere")
    message = invoke("validate", make_recipe({"teacher": "./adapter"}))
    assert "the model of this adapter, ./nowhere, is not there" in message and "base_model_name_or_path" in message


LOGITS = arms('sources = ["plain"]\nobjectives = ["seqkd", "forward_kl", "jsd"]')


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ({"vocabulary": CHARACTERS + "x"}, "the teacher has 20 tokens and the student 21"),
        ({"vocabulary": CHARACTERS[::-1]}, "20 tokens have another id in the student, '0' among them"),
        ({"vocab_size": 64}, "the teacher gives 32 logits and the student 64"),
    ],
)
def test_vocabularies_that_differ_for_a_logits_objective(student: dict[str, Any], expected: str) -> None:
    recipe = make_recipe(rest=LOGITS, student=student)
    message = invoke("validate", recipe)
    assert expected in message
    assert "forward_kl, jsd compare logits" in message and "objectives that work for this pair: seqkd, uld" in message
    invoke("validate", recipe, "--set", 'distill.arms.0.objectives=["seqkd"]', code=0)


def test_a_student_that_would_be_taught_another_end_of_turn_than_its_own() -> None:
    recipe = make_recipe(rest=arms('sources = ["plain"]\nobjectives = ["seqkd", "jsd"]'))
    for role, end in (("teacher", "o"), ("student", ":")):
        config = Path(role) / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": end}))
    message = invoke("validate", recipe)
    assert "jsd compare logits token by token, but the teacher ends a turn with 'o' and the student with ':'" in message
    invoke("validate", recipe, "--set", 'distill.arms.0.objectives=["seqkd"]', code=0)


def test_the_teacher_as_its_own_proxy() -> None:
    assert "the proxy is the teacher" in invoke("validate", make_recipe({"proxy": "teacher/../teacher"}))


def test_further_proxies_are_checked_like_the_first() -> None:
    message = invoke("validate", make_recipe({"proxies": ["./nowhere", "teacher", "student/../proxy", "./student"]}))
    assert "tasks.maths.proxies.0 = ./nowhere: there is no such model folder" in message
    assert "tasks.maths.proxies.1: the proxy is the teacher" in message
    assert "tasks.maths.proxies.2: the same model as proxy" in message
    assert "proxies.3" not in message, "a student may be a proxy"


@pytest.mark.parametrize("knob", ["nan", "inf", "-inf", "true", '"1"', '"big"', "[1]"])
def test_a_knob_that_is_no_number(knob: str) -> None:
    message = invoke("validate", make_recipe(rest=f"[calibrate.teachers.up]\nknob = {knob}"))
    assert "recipe.toml:11: calibrate.teachers.up.knob: should be a" in message and "number" in message


def _with_layers(path: Path, *names: str) -> None:
    """Write a weights file of which only the header is whole, which is all that is read."""
    header = json.dumps({"__metadata__": {"format": "pt"}, **{name: {"shape": [4, 4]} for name in names}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def test_an_adapter_of_layers_that_the_teacher_lacks() -> None:
    recipe = make_recipe(rest='[calibrate.lora]\ntarget_modules = ["q_proj", "qproj", "lm_head"]')
    invoke("validate", recipe, code=0)  # nothing can be told of empty weights
    _with_layers(Path("teacher/model.safetensors"), "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight")
    message = invoke("validate", recipe)
    assert "./teacher has no linear layers of the name 'qproj'" in message and "did you mean 'q_proj'? it has q_proj" in message
    assert "of the name 'lm_head'" in message and "of the name 'q_proj'" not in message


def test_an_unknown_learning_rate_schedule() -> None:
    message = invoke("validate", make_recipe(rest='[calibrate]\nlr_scheduler_type = "cosin"'))
    assert "calibrate.lr_scheduler_type: 'cosin' is none of" in message and "did you mean 'cosine'?" in message


def test_a_whole_number_is_a_knob() -> None:
    invoke("validate", make_recipe(rest="[calibrate.teachers.distillable]\nknob = 2\n" + arms('sources = ["distillable"]')), code=0)


def test_prompts_longer_than_the_context() -> None:
    message = invoke("validate", make_recipe({"operations": 4}, teacher={"max_position_embeddings": 45}))
    assert "tasks.maths.teacher: a prompt of 9 tokens (" in message
    assert ") and max_completion_length 40 exceed the context of 45" in message


def test_the_longest_prompt_is_named_whatever_its_split_and_for_every_model() -> None:
    rows = [*questions(100), *({"prompt": f"{number} " + "1" * 90, "answer": "1"} for number in range(8))]
    message = invoke("validate", make_recipe(jsonl(*rows), arms('sources = ["plain"]')))
    for role in ("teacher", "proxy", "student"):
        assert f"tasks.data.{role}: a prompt of 9" in message and "tokens (data.jsonl:10" in message


# The data


def test_a_missing_data_file() -> None:
    assert "nowhere.jsonl: there is no such file" in invoke("validate", make_recipe({"type": "data", "path": "nowhere.jsonl"}))


def test_rows_that_are_wrong_are_named_by_line_and_all_at_once() -> None:
    rows = [*questions(50), {"question": "?", "answer": "1"}, "not json", ["a list"], {"prompt": "no answer"}]
    message = invoke("validate", make_recipe(jsonl(*rows)))
    assert "data.jsonl:51: no text in column 'prompt'; columns found: 'question', 'answer'" in message
    assert "data.jsonl:52: not JSON" in message
    assert "data.jsonl:53: a JSON list, not an object" in message
    assert "data.jsonl:54: no text in column 'answer'" in message


def test_an_empty_task() -> None:
    assert "data.jsonl: the task is empty" in invoke("validate", make_recipe(jsonl()))


def test_fewer_prompts_than_the_arms_buy() -> None:
    recipe = make_recipe(jsonl(*questions(100)), arms('sources = ["plain"]\nqueries = [1.0, 10.0]'))
    assert "the arms buy up to 200 traces, and the query split holds" in invoke("validate", recipe)


def test_answers_that_the_grader_refuses() -> None:
    rows = [row | {"answer": "yes"} for row in questions(100)]
    recipe = make_recipe(jsonl(*rows) | {"grader": "contains_number"}, arms('sources = ["plain"]'))
    assert "the grader refuses the task's own answer" in invoke("validate", recipe)


def test_sources_that_the_task_cannot_have() -> None:
    recipe = make_recipe(
        jsonl(*questions(100)), arms('sources = ["gold_steps", "plain_prefilled", "plain_prefilled_oracle", "answer_only"]')
    )
    message = invoke("validate", recipe)
    assert "there are 4 problems" in message and "gold_steps: the task data has no reference solutions" in message


# The folder


def run_once(stages: Callable[[Callable[..., None]], None]) -> str:
    stages(lambda *_, **__: None)
    recipe = make_recipe()
    invoke("run", recipe, "--quiet", code=0)
    return recipe


def test_an_output_folder_in_use(stages: Callable[[Callable[..., None]], None]) -> None:
    recipe = run_once(stages)
    message = invoke("run", recipe)
    assert "runs/example: the folder is in use" in message and "--resume" in message
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    assert "other: the folder is in use and holds no run" in invoke("run", recipe, "--out", "other", "--resume")
    invoke("run", recipe, "--out", "third", "--quiet", code=0)


def test_an_output_folder_below_a_file() -> None:
    Path("notes.txt").touch()
    assert "notes.txt/run: cannot be written" in invoke("run", make_recipe(), "--out", "notes.txt/run")


def test_an_evaluation_is_not_begun_where_its_rows_cannot_be_written() -> None:
    Path("results").mkdir()
    for out, expected in (("results", "is a folder"), ("nowhere/rows.json", "a folder that does not exist")):
        assert expected in invoke("lm-eval", "sums", "./teacher", "--out", out)


def test_resuming_a_changed_recipe(stages: Callable[[Callable[..., None]], None]) -> None:
    recipe = run_once(stages)
    message = invoke("run", recipe, "--resume", "--set", "calibrate.max_steps=7", "--set", "tasks.maths.queries=8")
    assert "calibrate.max_steps (60 in the run, 7 now)" in message and "tasks.0.queries (20 in the run, 8 now)" in message
    for target in (recipe, "runs/example"):
        invoke("distill", target, "--resume", "--quiet", code=0)


def test_a_folder_that_is_no_run() -> None:
    Path("empty").mkdir()
    for verb in ("show", "report", "run", "evaluate"):
        assert "empty: not a run folder" in invoke(verb, "empty")


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', "\x00"])
def test_corrupt_results(stages: Callable[[Callable[..., None]], None], content: str) -> None:
    run_once(stages)
    Path("runs/example/results.json").write_text(content)
    for verb in ("show", "report"):
        assert "runs/example/results.json" in invoke(verb, "runs/example")


def test_a_report_without_results(stages: Callable[[Callable[..., None]], None]) -> None:
    run_once(stages)
    assert "results.json: there is no such file" in invoke("report", "runs/example")


# Several at once, and how it is said


def test_problems_of_every_kind_are_listed_at_once() -> None:
    recipe = make_recipe(
        {"querys": 1, "teacher": "./nowhere/model", "steps": 0},
        arms('sources = ["plian"]'),
        proxy={"template": None},
        student={"weights": []},
    )
    Path("runs/example").mkdir(parents=True)
    Path("runs/example/file").touch()
    message = invoke("run", recipe, "--set", "calibrate.num_generations=1")
    for expected in (
        "there are 8 problems",
        "tasks.0.querys",
        "tasks.0.steps",
        "num_generations",
        "./nowhere/model",
        "'plian'",
        "./proxy: no chat template",
        "no *.safetensors",
        "runs/example: the folder is in use",
    ):
        assert expected in message


def test_problems_as_json() -> None:
    outcome = CliRunner().invoke(app, ["validate", make_recipe({"querys": 1}), "--json"])
    assert outcome.exit_code == 2
    (problem,) = json.loads(outcome.stdout)["problems"]
    assert problem["where"] == "recipe.toml:10" and problem["fix"] == "did you mean 'queries'?"


@pytest.mark.parametrize("place", ["key", "source", "model", "column", "override", "file"])
def test_control_sequences_of_the_users_data_reach_no_terminal(place: str) -> None:
    arguments: list[str] = []
    match place:
        case "key":
            make_recipe(rest=f'[calibrate.teachers]\n"{json.dumps(ESCAPE)[1:-1]}" = 3')
        case "source":
            make_recipe(rest=arms(f"sources = [{json.dumps(ESCAPE)}]"))
        case "model":
            make_recipe({"teacher": "./" + ESCAPE})
        case "column":
            make_recipe(jsonl({ESCAPE: "x", "answer": "y"}))
        case "override":
            make_recipe()
            arguments = ["--set", f"{ESCAPE}=1"]
        case "file":
            make_recipe({"type": "data", "path": ESCAPE + ".jsonl"})
    message = invoke("validate", "recipe.toml", *arguments)
    assert not set(message) & set(ESCAPE[:1] + "\x9b\u202e")
    assert "[31m" in message


def test_a_mistake_shows_its_traceback_only_when_asked() -> None:
    outcome = CliRunner().invoke(app, ["show", "nowhere", "--debug"])
    assert outcome.exit_code == 2 and "Traceback" in outcome.stderr


def test_a_mistake_found_by_a_stage_is_a_mistake(stages: Callable[[Callable[..., None]], None]) -> None:
    from distillability.errors import UserError

    def fail(*_: object, **__: object) -> None:
        raise UserError.single("tasks.maths.proxy", "fails admission", "use another, or --force")

    stages(fail)
    assert "tasks.maths.proxy: fails admission\n      fix: use another, or --force" in invoke("calibrate", make_recipe())


def test_a_bug_of_ours_is_not_called_a_mistake(stages: Callable[[Callable[..., None]], None]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    stages(fail)
    outcome = CliRunner().invoke(app, ["run", make_recipe()])
    assert outcome.exit_code == 1
    assert "failed: ZeroDivisionError: oh" in outcome.stderr and "Traceback" in outcome.stderr


def test_stopping_says_how_to_go_on(stages: Callable[[Callable[..., None]], None]) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stages(stop)
    message = invoke("distill", make_recipe(), "--out", "a run", code=130)
    assert "distillability distill 'a run' --resume" in message


def test_each_verb_runs_its_own_stages(stages: Callable[[Callable[..., None]], None]) -> None:
    seen: list[tuple[str, ...]] = []
    stages(lambda recipe, folder, *, stages, quiet: seen.append((folder.recipe == recipe, quiet, *stages)))  # type: ignore[arg-type]
    recipe = make_recipe()
    for verb in ("run", "calibrate", "distill", "evaluate"):
        invoke(verb, recipe, "--resume", "--quiet", code=0)
    assert seen == [
        (True, True, "calibrate", "distill", "diagnose", "evaluate", "report"),
        (True, True, "calibrate"),
        (True, True, "distill"),
        (True, True, "evaluate"),
    ]


@pytest.mark.parametrize("verb", [*STAGE_VERBS, "sweep"])
def test_each_verb_of_the_stages_takes_the_same_options(verb: str) -> None:
    text = invoke(verb, "--help", code=0)
    assert all(option in text for option in ("RECIPE", "--out", "--set", "--resume", "--force", "--quiet", "--json", "--debug"))


def test_the_command_s_help_cuts_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in invoke("--help", code=0).partition("Commands:")[2]


def test_force_is_recorded(stages: Callable[[Callable[..., None]], None]) -> None:
    recipe = run_once(stages)
    invoke("calibrate", recipe, "--resume", "--force", "--quiet", code=0)
    assert json.loads(Path("runs/example/recipe.json").read_text())["calibrate"]["force"] is True


def test_show_speaks_json(stages: Callable[[Callable[..., None]], None]) -> None:
    run_once(stages)
    assert json.loads(invoke("show", "runs/example", "--json", code=0))["results"] is None
    run = RunInfo(name="example", recipe_digest="0", version="0")
    write_results(Results(run=run), Path("runs/example/results.json"))
    shown = json.loads(invoke("show", "runs/example", "--json", code=0))
    assert shown["results"]["run"]["complete"] is False and shown["report"] is None


# The command itself, in a process of its own


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distillability", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )


def test_the_command_leaves_with_2_and_without_a_traceback() -> None:
    done = command("run", make_recipe({"querys": 1}), "--set", "calibrate.num_generations=1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("there are 2 problems:") and "Traceback" not in done.stderr


def test_a_hub_model_that_cannot_be_had() -> None:
    done = command("validate", make_recipe({"teacher": "owner/no-such-model"}), HF_HOME=str(Path.cwd() / "hub"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tasks.maths.teacher = owner/no-such-model: neither a folder here nor a model that the hub gives us" in done.stderr


def test_an_unknown_option_and_an_unknown_verb() -> None:
    assert command("run", "x.toml", "--rezume").returncode == 2
    assert command("rum").returncode == 2


HEAVY = {"accelerate", "datasets", "jinja2", "matplotlib", "numpy", "peft", "safetensors", "scipy", "torch", "transformers", "trl"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["sweep", "--help"], ["lab", "build", "--help"], ["schema"], ["validate", "recipe.toml"]],
    ids=" ".join,
)
def test_what_needs_no_model_loads_nothing_heavy(arguments: list[str]) -> None:
    """What a person waits for is what is imported; a clock would measure the machine's other work."""
    make_recipe()
    script = (
        "import sys; from distillability.cli import main; sys.argv = ['distillability', *sys.argv[1:]]\n"
        "try: main()\n"
        f"finally: print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout and done.stderr.strip() == "[]", done.stderr


def test_the_entry_point_is_the_one_that_is_tested() -> None:
    """The installed command calls `distillability.cli.main`; `python -m distillability` does the same."""
    assert "calibrate" in command("--help").stdout
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert declared == {"distillability": "distillability.cli:main"}


def test_importing_the_package_imports_no_torch() -> None:
    script = "import sys, distillability; distillability.Recipe; distillability.__version__; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_every_public_name_exists() -> None:
    import distillability

    assert set(distillability.__all__) <= set(dir(distillability))
    for name in set(distillability.__all__) - {"LoadedModel", "load_model"}:  # those two import torch
        assert getattr(distillability, name) is not None


def test_version_is_printed_without_a_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "distillability", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.strip()
