"""The lab's families: their tokenizers, what the build teaches, and the models that come with the package."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from distillability.errors import UserError
from distillability.lab import build as lab
from distillability.lab.build import FAMILIES, Family
from distillability.lab.tokenizers import character_tokenizer, word_tokenizer
from distillability.models.chat import completion_ids, prompt_ids, round_trips
from distillability.models.load import load_tokenizer
from distillability.models.locate import lab_models

BUILT = [name for name in FAMILIES if {f"lab:{name}/teacher", f"lab:{name}/proxy"} <= set(lab_models())]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="maths, knowledge, instructions"):
        lab.build("history", tmp_path)


def test_right_texts_survive_the_tokenizers_and_fit(family: Family) -> None:
    task, (_, words, pattern) = family.task, family.words
    own = word_tokenizer(words, task.alphabet, pattern)
    characters = character_tokenizer(task.alphabet)
    for prompt in task.prompts("query", 50):
        for text in (prompt.text, *(task.render(prompt, mode) for mode in task.modes), task.wrong_steps(prompt)):
            assert round_trips(own, text) and round_trips(characters, text)
            assert len(completion_ids(own, text)) < len(completion_ids(characters, text)) < family.max_completion_length


def test_what_weighs_more_is_the_value_that_was_worked_out_unseen(family: Family) -> None:
    task, loaded_tokenizer = family.task, character_tokenizer(family.task.alphabet)
    for level in range(2, task.depth + 1):
        for text in lab._level(task, random.Random(0), level, 20):
            assert text.heavy is not None
            value = text.completion[slice(*text.heavy)]
            answer_only = text.ends
            depth = (len(text.prompt) - len(task.draw(random.Random(0), 1).text)) // _characters_of_an_operation(family) + 1
            assert depth == level - answer_only
            assert value not in ("", "#") and all(character.isalnum() for character in value)
            assert len(prompt_ids(loaded_tokenizer, text.prompt)) == len(text.prompt) + 2  # the turns of the template


def _characters_of_an_operation(family: Family) -> int:
    rng = random.Random(0)
    return len(family.task.draw(rng, 2).text) - len(family.task.draw(rng, 1).text)


@pytest.mark.parametrize("name", BUILT)
def test_the_shipped_models_have_the_family_s_vocabulary(name: str) -> None:
    family = FAMILIES[name]
    own, words, pattern = family.words
    shipped = {role: load_tokenizer(f"lab:{name}/{role}") for role in ("teacher", "proxy", "student", own)}
    made = character_tokenizer(family.task.alphabet).get_vocab()
    assert shipped["teacher"].get_vocab() == shipped["student"].get_vocab() == made
    assert shipped[own].get_vocab() == word_tokenizer(words, family.task.alphabet, pattern).get_vocab()
    assert len(shipped["proxy"]) <= 256
    for prompt in family.task.prompts("validate", 20):
        assert round_trips(shipped["proxy"], family.task.render(prompt, "remark_hard"))


def test_the_lab_s_models_are_small() -> None:
    assert sum(path.stat().st_size for folder in lab_models().values() for path in folder.rglob("*")) < 10e6
