"""Tasks: they accept their own gold, refuse near misses, and keep their splits apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillability.errors import UserError
from distillability.tasks import Jsonl, Maths, split_of
from distillability.tasks.maths import ALPHABET
from distillability.types import SPLITS

TASK = Maths()
PROMPTS = TASK.prompts("test", 300)


def test_maths_validates_itself() -> None:
    assert TASK.validate(n=150) == []


def test_validate_notices_a_grader_that_accepts_too_much() -> None:
    class Lenient(Maths):
        def grade(self, prompt, text):  # type: ignore[no-untyped-def]
            grade = super().grade(prompt, text)
            return type(grade)(right=prompt.answer in text, right_steps=grade.right_steps, mode=grade.mode)

    assert any("near miss" in problem for problem in Lenient().validate(n=5))


def test_maths_against_python_arithmetic() -> None:
    for prompt in PROMPTS:
        value = int(prompt.text[0])
        for position in range(1, len(prompt.text), 2):
            value = eval(f"({value}{prompt.text[position : position + 2]}) % 10")
        assert prompt.answer == str(value)


def test_easy_and_hard_steps_are_rearrangements_of_the_same_bytes() -> None:
    for prompt in PROMPTS:
        easy, hard = TASK.render(prompt, "easy"), TASK.render(prompt, "hard")
        assert easy != hard
        assert Counter(easy.encode()) == Counter(hard.encode())
        assert set(easy) <= set(ALPHABET)


def test_answers_are_even() -> None:
    counts = Counter(prompt.answer for prompt in TASK.prompts("query", 5000))
    assert len(counts) == 10
    assert max(counts.values()) / 5000 < 0.13


def test_splits_are_disjoint_and_prefixes_nest() -> None:
    texts = {split: [prompt.text for prompt in TASK.prompts(split, 400)] for split in SPLITS}
    assert all(split_of(text) == split for split in SPLITS for text in texts[split])
    assert [prompt.text for prompt in TASK.prompts("query", 100)] == texts["query"][:100]
    assert len({text for split in SPLITS for text in texts[split]}) == 4 * 400


def test_a_wrong_step_with_the_right_answer_is_right_but_not_right_steps() -> None:
    prompt = PROMPTS[0]
    wrong = TASK.wrong_steps(prompt)[:-1] + prompt.answer
    grade = TASK.grade(prompt, wrong)
    assert grade.right and grade.right_steps is False and grade.mode == "easy"


def test_answer_only_is_recognised_and_cut() -> None:
    prompt = PROMPTS[0]
    grade = TASK.grade(prompt, f"#{prompt.answer}")
    assert grade.right and grade.answer_only and grade.right_steps is False
    assert TASK.answer_only(TASK.render(prompt, "hard")) == f"#{prompt.answer}"
    assert TASK.answer_only(">so:") is None


def test_a_wrong_attempt_keeps_its_mode() -> None:
    prompt = PROMPTS[3]
    text = TASK.render(prompt, "remark_hard")
    spoiled = text.replace(text[6], str((int(text[6]) + 1) % 10), 1)
    assert TASK.grade(prompt, spoiled).mode == "remark_hard"


@given(st.text(max_size=60))
def test_grading_never_raises(text: str) -> None:
    grade = TASK.grade(PROMPTS[1], text)
    assert not grade.right or text.endswith(PROMPTS[1].answer)


def _write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_grades_and_splits(tmp_path: Path) -> None:
    rows: list[object] = [{"prompt": f"What is {i} + 1?", "answer": i + 1} for i in range(60)]
    task = Jsonl("mine", _write(tmp_path / "mine.jsonl", rows), grader="contains_number")
    assert sum(len(task.prompts(split, 100)) for split in SPLITS) == 60
    prompt = task.prompts("test", 1)[0]
    assert task.grade(prompt, f"It is {prompt.answer}.").right
    assert not task.grade(prompt, f"It is {prompt.answer} or 7").right
    assert task.validate() == []


def test_jsonl_names_file_and_line_of_every_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\nnot json\n{"question": "a", "answer": "b"}\n[1]\n', encoding="utf-8")
    with pytest.raises(UserError) as raised:
        Jsonl("bad", path)
    places = [problem.where for problem in raised.value.problems]
    assert places == [f"{path}:2", f"{path}:3", f"{path}:4"]
    assert "'question', 'answer'" in str(raised.value)


def test_jsonl_with_too_few_prompts_says_which_splits_are_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave no prompt"):
        Jsonl("few", _write(tmp_path / "few.jsonl", [{"prompt": "a", "answer": "b"}]))
