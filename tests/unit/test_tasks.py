"""Tasks: they accept their own gold, refuse near misses, and keep their splits apart."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillability.config.recipe import InstructionsTask
from distillability.errors import UserError
from distillability.lab.tokenizers import character_tokenizer
from distillability.tasks import CrossedModes, Instructions, Knowledge, Maths, RewardModel, build_task, split_of
from distillability.tasks.knowledge import facts
from distillability.types import SPLITS, Prompt
from tiny import tiny_reward_model

FAMILIES = {task.name: task for task in (Maths(), Knowledge(), Instructions())}
PROMPTS = {name: task.prompts("test", 200) for name, task in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def task(request: pytest.FixtureRequest) -> CrossedModes:
    return FAMILIES[request.param]


def test_a_family_validates_itself(task: CrossedModes) -> None:
    assert task.validate(n=100) == []


def test_validate_notices_a_grader_that_accepts_too_much(task: CrossedModes) -> None:
    class Lenient(type(task)):  # type: ignore[misc]
        def grade(self, prompt, text):  # type: ignore[no-untyped-def]
            grade = super().grade(prompt, text)
            return type(grade)(right=prompt.answer in text, right_steps=grade.right_steps, mode=grade.mode)

    assert any("near miss" in problem for problem in Lenient().validate(n=5))


def test_validate_notices_an_alphabet_that_lacks_a_character() -> None:
    class Short(Maths):
        alphabet = Maths.alphabet.replace("7", "")

    assert any("alphabet" in problem for problem in Short().validate(n=5))


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("family", [Maths, Knowledge, Instructions])
def test_chains_of_other_depths(family: type[CrossedModes], depth: int) -> None:
    task = family(family.__name__.lower(), depth)
    assert task.validate(n=20) == []
    assert all(len(task.asked(prompt)) == depth for prompt in task.prompts("query", 5))


def test_maths_against_python_arithmetic() -> None:
    for prompt in PROMPTS["maths"]:
        value = int(prompt.text[0])
        for position in range(1, len(prompt.text), 2):
            value = eval(f"({value}{prompt.text[position : position + 2]}) % 10")
        assert prompt.answer == str(value)


def test_knowledge_against_the_properties_themselves() -> None:
    content = json.loads((files("distillability.tasks") / "elements.json").read_text(encoding="utf-8"))
    known = {element["symbol"]: element for element in content["elements"]}
    signs = {"+": "atomic_number", ")": "density", "^": "melting_point", "]": "ionisation_energy", "}": "abundance"}
    for sign, name in signs.items():
        for symbol, above in facts()[sign].items():
            higher = [other for other in known.values() if other[name] > known[symbol][name]]
            nearest = min(higher or known.values(), key=lambda other: other[name])
            assert above == nearest["symbol"]
    opposite = dict(zip("+)^]}", "-(_[{", strict=True))
    assert all(facts()[opposite[up]][facts()[up][symbol]] == symbol for up in opposite for symbol in known)
    assert known["Fe"]["atomic_number"] == 26 and known["Os"]["density"] > 22  # real ones


def test_instructions_against_tables() -> None:
    """Each operation as a table of where a to t go."""
    tables = {
        "N": "bcdefghijklmnopqrsta",
        "P": "tabcdefghijklmnopqrs",
        "F": "bcdeaghijflmnokqrstp",
        "B": "eabcdjfghioklmntpqrs",
        "Q": "dcbahgfelkjiponmtsrq",
        "S": "badcfehgjilknmporqts",
        "M": "tsrqponmlkjihgfedcba",
        "W": "acegikmoqsbdfhjlnprt",
        "E": "akblcmdneofpgqhrisjt",
        "T": "adgjmpsbehknqtcfilor",
    }
    assert all(sorted(table) == list("abcdefghijklmnopqrst") for table in tables.values())
    for prompt in PROMPTS["instructions"]:
        letter, bracket = prompt.text[0], prompt.text[-1]
        for name in prompt.text[1:-1]:
            letter = tables[name]["abcdefghijklmnopqrst".index(letter)]
        assert prompt.answer == bracket + letter + {"(": ")", "[": "]", "{": "}"}[bracket]
    assert Instructions(operations=2).n_prompts == 20 * 3 * (10 * 10 - 9)  # nine operations have one that undoes them


def test_easy_and_hard_steps_are_rearrangements_of_the_same_bytes(task: CrossedModes) -> None:
    for prompt in PROMPTS[task.name]:
        easy, hard = task.render(prompt, "easy"), task.render(prompt, "hard")
        assert easy != hard
        assert Counter(easy.encode()) == Counter(hard.encode())
        assert set(prompt.text + easy) <= set(task.alphabet)


def test_the_hidden_value_is_what_all_steps_but_the_last_leave(task: CrossedModes) -> None:
    for prompt in PROMPTS[task.name][:50]:
        for mode in ("hard", "remark_hard"):
            text, span = task.render(prompt, mode), task.hidden_span(mode)
            assert span is not None
            start, end = task.value_at
            assert text[slice(*span)] == task.work(prompt)[0][-1][start:end]
        assert task.render(prompt, "hard").startswith(task.first_hard_step(prompt))
        assert task.hidden_span("easy") is None


def test_the_easy_prefill_ends_before_the_first_result(task: CrossedModes) -> None:
    for prompt in PROMPTS[task.name][:50]:
        prefill, easy, wrong = task.oracle_prefill(prompt), task.render(prompt, "easy"), "".join(task.work(prompt, error_at=0)[0])
        assert easy.startswith(prefill) and not task.render(prompt, "hard").startswith(prefill)
        width = task.value_at[1] - task.value_at[0]
        first_result = slice(len(prefill), len(prefill) + width)
        assert easy[first_result] != f">{wrong}"[first_result] and easy[: len(prefill)] == f">{wrong}"[: len(prefill)]


def test_answers_are_even(task: CrossedModes) -> None:
    prompts = task.prompts("query", 4000)
    counts = Counter(_answered(prompt) for prompt in prompts)
    assert len(counts) == {"maths": 10, "knowledge": 21, "instructions": 20}[task.name]
    assert max(counts.values()) / len(prompts) < task.chance + 0.02


def _answered(prompt: Prompt) -> str:
    """The answer without its brackets, where there are any."""
    return prompt.answer.strip("()[]{}")


def test_modes_are_shared_out_evenly_and_the_question_sways_them(task: CrossedModes) -> None:
    rng = random.Random(0)
    drawn = [(task.leans_hard(prompt), task.draw_mode(rng, prompt)) for prompt in task.prompts("calibrate", 4000)]
    shares = {mode: sum(mode == other for _, other in drawn) / len(drawn) for mode in task.modes}
    assert all(abs(share - 1 / len(task.modes)) < 0.03 for share in shares.values())
    stepped = [(leans, mode.endswith("hard")) for leans, mode in drawn if mode != "answer_only"]
    assert 0.7 < sum(hard for leans, hard in stepped if leans) / sum(leans for leans, _ in stepped) < 0.8


def test_splits_are_disjoint_and_prefixes_nest(task: CrossedModes) -> None:
    texts = {split: [prompt.text for prompt in task.prompts(split, 400)] for split in SPLITS}
    assert all(split_of(text) == split for split in SPLITS for text in texts[split])
    assert [prompt.text for prompt in task.prompts("query", 100)] == texts["query"][:100]
    assert len({text for split in SPLITS for text in texts[split]}) == 4 * 400
    assert task.n_prompts >= 50_000


def test_streams_end() -> None:
    short = Maths(operations=2)
    found = {split: list(short.stream(split)) for split in SPLITS}
    assert [len(prompts) for prompts in found.values()] == [int(5290 * share / 2) for share in (0.3, 0.4, 0.1, 0.2)]


def test_a_wrong_step_with_the_right_answer_is_right_but_not_right_steps(task: CrossedModes) -> None:
    for prompt in PROMPTS[task.name][:20]:
        wrong = task.wrong_steps(prompt)
        assert not task.grade(prompt, wrong).right
        grade = task.grade(prompt, wrong[: wrong.index("#") + 1] + prompt.answer)
        assert grade.right and grade.right_steps is False and grade.mode == "easy"


def test_answer_only_is_recognised_and_cut(task: CrossedModes) -> None:
    prompt = PROMPTS[task.name][0]
    grade = task.grade(prompt, f"#{prompt.answer}")
    assert grade.right and grade.answer_only and grade.right_steps is False
    assert grade.mode == ("answer_only" if task.name == "knowledge" else None)
    assert task.answer_only(task.render(prompt, "hard")) == f"#{prompt.answer}"
    assert task.answer_only(">so:") is None


def test_a_wrong_attempt_keeps_its_mode(task: CrossedModes) -> None:
    for prompt in PROMPTS[task.name][:20]:
        steps, _ = task.work(prompt, error_at=0)
        spoiled = f">so:{''.join(steps[::-1])}#{prompt.answer}"
        grade = task.grade(prompt, spoiled)
        assert grade.mode == "remark_hard" and grade.right_steps is False


@given(st.text(max_size=60))
def test_grading_never_raises(text: str) -> None:
    for name, task in FAMILIES.items():
        prompt = PROMPTS[name][1]
        grade = task.grade(prompt, text)
        assert not grade.right or text.endswith(prompt.answer)


def test_a_reward_model_says_what_is_right(tmp_path: Path) -> None:
    plain = FAMILIES["instructions"]
    folder = tiny_reward_model(tmp_path / "reward", character_tokenizer(plain.alphabet), seed=0)
    fields = {"teacher": "t", "proxy": "p", "student": "s", "queries": 1, "steps": 1, "max_completion_length": 26}
    config = InstructionsTask(**fields, reward_model=str(folder), reward_threshold=0.0)
    judged = build_task(config)
    assert isinstance(judged, Instructions) and isinstance(judged.judge, RewardModel)
    prompt = PROMPTS["instructions"][0]
    texts = [plain.render(prompt, mode) for mode in plain.modes] + [plain.wrong_steps(prompt)]
    scores = [judged.judge(prompt.text, text) for text in texts]
    assert len(set(scores)) == len(scores)
    for text, score in zip(texts, scores, strict=True):
        for threshold in (score, score + 1e-3):
            judged.threshold = threshold
            grade, by_rules = judged.grade(prompt, text), plain.grade(prompt, text)
            assert grade.right is (threshold == score)
            assert grade.right_steps is (by_rules.right_steps and grade.right) and grade.mode == by_rules.mode
    judged.threshold = float("-inf")
    assert judged.validate(n=2) == []


def test_a_reward_model_without_a_template_sees_a_pair(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(Instructions.alphabet)
    tokenizer.chat_template = None
    judge = RewardModel(str(tiny_reward_model(tmp_path / "reward", tokenizer, seed=0)))
    assert judge("cNM[", "#[q]") != judge("cNM[", "#[p]")


def test_what_is_no_reward_model_is_refused(tmp_path: Path, tiny: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="not a sequence-classification model"):
        RewardModel(str(tiny["teacher"]))
    with pytest.raises(UserError, match="no such model folder"):
        RewardModel(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no config\.json"):
        RewardModel(str(tmp_path))
    two = tiny_reward_model(tmp_path / "two", character_tokenizer("ab"), seed=0, outputs=2)
    with pytest.raises(UserError, match="2 outputs"):
        RewardModel(str(two))("a", "b")
