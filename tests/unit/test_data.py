"""A data task: where its rows come from, what a row becomes, and who grades it."""

from __future__ import annotations

import csv
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from distillability.config.load import read_recipe
from distillability.config.presets import PRESETS
from distillability.config.recipe import DataTask
from distillability.errors import UserError
from distillability.lab.tokenizers import character_tokenizer
from distillability.stages.preflight import find_problems
from distillability.tasks import Data, build_task, split_of
from distillability.tasks.graders import contains_number, math_verify
from distillability.types import SPLITS, Grade
from tiny import tiny_reward_model

FIELDS = {"teacher": "t", "proxy": "p", "student": "s", "queries": 1, "steps": 1, "max_completion_length": 46}
QUESTIONS = [{"prompt": f"What is {number} + 1?", "answer": number + 1} for number in range(60)]


@pytest.fixture(autouse=True)
def _own_folder_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def build(**keys: Any) -> Data:
    task = build_task(DataTask(**{**FIELDS, **keys}))
    assert isinstance(task, Data)
    return task


def jsonl(rows: list[Any], path: str = "mine.jsonl") -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(rows: list[dict[str, Any]], path: str) -> str:
    import datasets

    data = datasets.Dataset.from_list(rows)
    data.to_parquet(path) if path.endswith(".parquet") else data.save_to_disk(path)
    return path


def prompts(task: Data) -> dict[str, str]:
    return {prompt.text: prompt.answer for split in SPLITS for prompt in task.stream(split)}


WANTED = {row["prompt"]: str(row["answer"]) for row in QUESTIONS}


# Where rows come from


def _written_as(form: str) -> dict[str, Any]:
    if form == "jsonl":
        return {"path": jsonl(QUESTIONS)}
    if form in ("csv", "tsv"):
        with Path(f"mine.{form}").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, ["prompt", "answer"], delimiter="," if form == "csv" else "\t")
            writer.writeheader()
            writer.writerows(QUESTIONS)
        return {"path": f"mine.{form}"}
    if form == "json":
        Path("mine.json").write_text(json.dumps(QUESTIONS))
        return {"path": "mine.json"}
    if form == "parquet":
        return {"path": table(QUESTIONS, "mine.parquet")}
    if form == "saved":
        return {"path": table(QUESTIONS, "saved")}
    Path("folder").mkdir()
    table(QUESTIONS[:40], "folder/train.parquet")
    table(QUESTIONS[40:], "folder/test.parquet")
    return {"path": "folder", "split": "train+test"}


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "json", "parquet", "saved", "folder"])
def test_the_same_rows_from_every_form(form: str) -> None:
    task = build(**_written_as(form), grader="contains_number")
    assert prompts(task) == WANTED
    assert all(split_of(prompt.text) == split for split in SPLITS for prompt in task.stream(split))
    assert task.validate() == []


@pytest.mark.parametrize(
    ("text", "right"), [("1,234", True), ("so 1,234.0 %", True), ("234", False), ("1,234 apples", False), ("12,34", False)]
)
def test_numbers_are_read_with_their_thousands(text: str, right: bool) -> None:
    assert contains_number("", "1234", text) is right


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("5", ".5", False),
        ("5", "\N{MINUS SIGN}5", False),
        ("-5", "so it is \N{MINUS SIGN}5.", True),
        ("5", "3e5", False),
        ("7", "3+10-7", True),
        ("-7", "10-7", False),
        ("-5", "-$5", True),
        ("-5", "$-5", True),
        ("1234", r"\boxed{1{,}234}", True),
        ("234", r"\boxed{1{,}234}", False),
        ("2", "x = 5/2.", False),
        ("1/2", "x = 1/2", False),  # no number at all: such a task is refused before it is run
        ("8", "2^8", False),
    ],
)
def test_what_is_not_the_number_itself_is_not_taken_for_it(answer: str, text: str, right: bool) -> None:
    assert contains_number("", answer, text) is right


def test_splits_are_not_in_the_order_of_the_file_and_no_text_is_in_two() -> None:
    rows = [{"prompt": f"{number:04d}", "answer": "1"} for number in range(1000)]
    for split, found in ((split, build(path=jsonl(rows)).prompts(split, 1000)) for split in SPLITS):
        first = [int(prompt.text) for prompt in found[: len(found) // 2]]
        assert 400 < sum(first) / len(first) < 600, split
    assert len(prompts(build(path=jsonl(rows + [{"prompt": f" {row['prompt']}\n", "answer": "1"} for row in rows])))) == 1000


def test_what_csv_readers_like_to_guess_stays_a_text() -> None:
    rows = "".join(f'"{number:04d}","NA"\n' for number in range(60))
    Path("mine.csv").write_text("prompt,answer\n" + rows)
    assert prompts(build(path="mine.csv")) == {f"{number:04d}": "NA" for number in range(60)}


def test_a_folder_with_several_splits_says_which() -> None:
    Path("folder").mkdir()
    for split in ("train", "test"):
        table(QUESTIONS, f"folder/{split}.parquet")
    with pytest.raises(UserError, match="has several splits: train, test"):
        build(path="folder")
    assert len(prompts(build(path="folder", split="test"))) == 60


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"path": "nowhere.parquet"}, "there is no such file"),
        ({"path": "owner/no-such-set"}, "no data set that can be loaded"),
        ({"path": "./nowhere"}, "no data set that can be loaded"),
        ({"path": "mine.txt"}, "of no form that can be read"),
        ({"path": "broken.parquet"}, r"cannot be read as \.parquet"),
        ({"path": "mine.jsonl", "split": "train"}, "a file has no split"),
        ({"path": "saved", "split": "tset"}, "tset"),
        ({"path": "latin.csv"}, "not a text in UTF-8"),
        ({"path": "loose.csv"}, "more fields than the 2 columns"),
    ],
)
def test_data_that_cannot_be_had(keys: dict[str, Any], said: str) -> None:
    import datasets

    jsonl(QUESTIONS)
    Path("mine.txt").touch()
    Path("broken.parquet").write_text("no parquet")
    Path("latin.csv").write_bytes("prompt,answer\nwas ist größer?,ü\n".encode("latin-1"))
    Path("loose.csv").write_text("prompt,answer\na,b,c\n")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(QUESTIONS)}).save_to_disk("saved")
    with pytest.raises(UserError, match=said):
        build(**keys)


def test_every_bad_row_is_named() -> None:
    Path("bad.jsonl").write_text('{"prompt": "a", "answer": "b"}\nnot json\n{"question": "a", "answer": "b"}\n[1]\n', encoding="utf-8")
    with pytest.raises(UserError) as raised:
        build(path="bad.jsonl")
    assert [problem.where for problem in raised.value.problems] == ["bad.jsonl:2", "bad.jsonl:3", "bad.jsonl:4"]
    assert "'question', 'answer'" in str(raised.value)


def test_a_bad_row_of_a_table_is_named() -> None:
    path = table([*QUESTIONS, {"prompt": "?", "answer": None}], "mine.parquet")
    with pytest.raises(UserError, match=r"mine\.parquet, row 60: no text in column 'answer'"):
        build(path=path)


def test_too_few_prompts_say_which_splits_are_empty() -> None:
    with pytest.raises(UserError, match="leave no prompt"):
        build(path=jsonl([{"prompt": "a", "answer": "b"}]))


def test_of_equal_prompts_the_first_counts() -> None:
    again = [row | {"answer": -1} for row in QUESTIONS]
    assert prompts(build(path=jsonl(QUESTIONS + again))) == WANTED


# What a row becomes


def test_a_template_joins_columns_and_letters_choices() -> None:
    both = {"label": ["x", "y"], "text": ["1", "2"]}
    rows = [{"question": f"{number}?", "hint": "", "options": ["yes", "no", number], "both": both, "key": "B"} for number in range(60)]
    task = build(path=jsonl(rows), prompt_template="{question} {{}}\n{options}\n{both}\n{hint}", answer_column="key", grader="choice")
    assert "7? {}\nA. yes\nB. no\nC. 7\nx. 1\ny. 2" in prompts(task)


@pytest.mark.parametrize("template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>10}", "{}", "{0}", "no field", "{a", "{a:{b}}"])
def test_templates_hold_plain_columns_only(template: str) -> None:
    with pytest.raises(ValueError, match=r"plain name of a column|no \{column\}|not a template"):
        DataTask(**FIELDS, path="x.jsonl", prompt_template=template)


def test_a_template_of_a_column_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"mine\.jsonl:1: no text in column 'hint'; columns found: 'prompt', 'answer'"):
        build(path=jsonl(QUESTIONS), prompt_template="{prompt} {hint}")


# Who grades


CHOICES = [
    ("B", True),
    ("(B)", True),
    ("b", False),
    ("**B.**", True),
    ("First A. Then the answer is (B).", True),
    ("The answer is A. No: the answer is **(B)**, since A is wrong.", True),
    ("Answer: B", True),
    ("the answer is a dog", False),
    (r"\boxed{B}", True),
    (r"So $\boxed{\text{(B)}}$.", True),
    ("Some thought\nB", True),
    ("The answer is A", False),
    ("The answer is B or C", False),
    ("The answer is (B) and (C)", False),
    ("A, B, C", False),
    ("The answer is Bromine", False),
    ("I would say B because", False),
    ("The answer is (B). Answer A is wrong because it floats.", True),
    ("Answer: B\n\nExplanation: B fits. Answer C is incorrect.", True),
    ("The answer is B. This is the answer I would give.", True),
    ("The answer is (B), I think.", True),
    (r"\boxed{B} or \boxed{C}", False),
    (r"\boxed{C} or \boxed{B}", False),
    ("Answer: B. Hmm, the answer is B or A.", False),
    ("Some thought.\nAnswer B.", True),
    ("", False),
]


@pytest.mark.parametrize(("text", "right"), CHOICES)
def test_the_letter_chosen(text: str, right: bool) -> None:
    task = build(path=jsonl([row | {"answer": "B"} for row in QUESTIONS]), grader="choice")
    prompt = task.prompts("test", 1)[0]
    assert task.grade(prompt, text).right is right
    assert task.validate() == []


def test_money_is_an_answer() -> None:
    pytest.importorskip("math_verify")
    assert math_verify("", r"\$18.90", r"so \boxed{18.90}") and not math_verify("", r"\$18.90", r"so \boxed{18.80}")


MATHS = [("x = \\frac{1}{2}", True), ("\\boxed{0.5}", True), ("so it is 1/2.", True), ("$\\frac{2}{4}$", True), ("2", False), ("", False)]


@pytest.mark.parametrize(("text", "right"), MATHS)
def test_maths_is_verified(text: str, right: bool) -> None:
    pytest.importorskip("math_verify")
    task = build(path=jsonl([row | {"answer": r"\frac{1}{2}"} for row in QUESTIONS]), grader="math_verify")
    prompt = task.prompts("test", 1)[0]
    found = []
    thread = threading.Thread(target=lambda: found.append(task.grade(prompt, text).right))
    thread.start()
    thread.join()
    assert [task.grade(prompt, text).right, *found] == [right, right]
    assert task.grade(prompt, task.gold_answer(prompt) or "").right


def test_maths_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillability.tasks.graders.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"distillability\[math-verify\]"):
        build(path=jsonl(QUESTIONS), grader="math_verify")


def own(source: str, name: str, **keys: Any) -> Data:
    Path(f"{name}.py").write_text("from distillability import Grade\nimport math\n" + source)
    return build(path=jsonl(QUESTIONS), grader=f"{name}:judge", **keys)


def test_a_grader_of_ones_own() -> None:
    task = own("def judge(prompt, answer, text): return Grade(answer in text, mode='loud' if text.isupper() else None)", "loud_grader")
    prompt = task.prompts("test", 1)[0]
    assert task.grade(prompt, f"IT IS {prompt.answer}") == Grade(right=True, mode="loud")
    assert not task.grade(prompt, "no").right


def test_a_number_is_compared_with_the_threshold() -> None:
    source = "def judge(prompt, answer, text): return len(text) / 10"
    task = own(source, "number_grader", threshold=0.5)
    prompt = task.prompts("test", 1)[0]
    assert task.grade(prompt, "12345").right and not task.grade(prompt, "1234").right
    with pytest.raises(UserError, match=r"returned the number 0\.5"):
        build(path="mine.jsonl", grader="number_grader:judge").grade(prompt, "12345")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError(text)", "raised KeyError: 'a text'"),
        ("return math.nan", "returned nan"),
        ("return None", "returned None"),
        ("return 'yes'", "returned 'yes'"),
    ],
)
def test_a_grader_that_fails_names_the_row(body: str, said: str) -> None:
    task = own(f"def judge(prompt, answer, text): {body}", f"failing_grader_{abs(hash(body))}", threshold=0.5)
    prompt = task.prompts("test", 1)[0]
    with pytest.raises(UserError) as raised:
        task.grade(prompt, "a text")
    assert f"on row {prompt.id} of mine.jsonl: {said}" in str(raised.value)


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("judge = 3", "no_function", "cannot be called as f"),
        ("def judge(text): return True", "one_argument", "cannot be called as f"),
        ("def other(prompt, answer, text): return True", "another_name", "cannot be imported: AttributeError"),
        ("raise OSError('gone')", "raises_at_once", "cannot be imported: OSError: gone"),
    ],
)
def test_a_grader_that_is_none(source: str, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        own(source, name)


def test_a_grader_without_answers_needs_none() -> None:
    rows = [{"prompt": row["prompt"]} for row in QUESTIONS]
    Path("answerless.py").write_text("def judge(prompt, answer, text): return answer is None")
    task = build(path=jsonl(rows), grader="answerless:judge", answer_column=None)
    prompt = task.prompts("test", 1)[0]
    assert task.gold_answer(prompt) is None and task.grade(prompt, "").right
    with pytest.raises(UserError, match="the grader exact needs answers"):
        build(path="mine.jsonl", answer_column=None)


# The paper's tasks, on rows of the same columns


def _rows(preset: str) -> list[dict[str, Any]]:
    numbers = range(60)
    if preset.startswith("bigmath"):
        return [
            {"prompt": f"Add 1 to {n}.", "solution": str(n + 1), "source": "x", "domain": ["y"], "llama8b_solve_rate": 0.5} for n in numbers
        ]
    texts = ["red", "green", "blue", "grey", "pink"]
    if preset == "commonsenseqa":
        choices = {"label": list("ABCDE"), "text": texts}
        return [{"id": str(n), "question": f"Colour {n}?", "question_concept": "x", "choices": choices, "answerKey": "C"} for n in numbers]
    if preset == "mmlu_pro":
        return [{"question_id": n, "question": f"Colour {n}?", "options": texts, "answer": "C", "answer_index": 2} for n in numbers]
    if preset == "supergpqa":
        return [{"uuid": str(n), "question": f"Colour {n}?", "options": texts, "answer": "blue", "answer_letter": "C"} for n in numbers]
    if preset == "dolly":
        return [
            {"instruction": f"Name {n} things.", "context": "Things." * (n % 2), "response": "One.", "category": "open_qa"} for n in numbers
        ]
    return [{"question_id": n, "text": f"Write {n} words.", "category": "writing"} for n in numbers]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_papers_tasks(preset: str, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"preset": preset, "path": table(_rows(preset), "rows.parquet"), "subset": None, "split": None}
    if preset.startswith("bigmath"):
        pytest.importorskip("math_verify")
    if PRESETS[preset]["grader"] == "reward_model":
        model = tiny_reward_model(tmp_path / "reward", character_tokenizer("abcdefghijklmnopqrstuvwxyz0123456789 ."), seed=0)
        keys |= {"reward_model": str(model), "threshold": -math.inf}
        with pytest.raises(ValueError, match="needs it"):
            DataTask(**FIELDS, preset=preset, path="rows.parquet")
    config = DataTask.model_construct(**DataTask(**FIELDS, **{**keys, "threshold": 0.0 if "threshold" in keys else None}).model_dump())
    task = build_task(config)
    assert isinstance(task, Data) and task.name == preset and len(prompts(task)) == 60
    prompt = task.prompts("test", 1)[0]
    gold = task.gold_answer(prompt)
    if preset == "vicuna":
        assert gold is None and prompt.text.startswith("Write ")
    elif preset == "dolly":
        assert gold == "One." and isinstance(task.grade(prompt, gold).right, bool)
    else:
        assert gold is not None and task.grade(prompt, f"Let me see.\n{gold}").right and not task.grade(prompt, "Z").right
        assert "tep by step" in prompt.text
    if "choice" in task.grader.name:
        assert "A. red\nB. green\nC. blue" in prompt.text and task.grade(prompt, "The answer is (C).").right


# A recipe


def recipe(tmp_path: Path, text: str) -> list[str]:
    lines = [f"{key} = {json.dumps(value)}" for key, value in FIELDS.items()]
    (tmp_path / "recipe.toml").write_text("\n".join(['name = "x"', "[[tasks]]", 'type = "data"', *lines, text]))
    return [str(problem) for problem in read_recipe(tmp_path / "recipe.toml")[1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('path = "x.jsonl"\ngrader = "exactly"', "tasks.0.grader: 'exactly' is neither one of exact, last_line"),
        ('path = "x.jsonl"\ngrader = "reward_model"\nthreshold = 0', 'tasks.0.reward_model: grader = "reward_model" needs it'),
        ('path = "x.jsonl"\ngrader = "reward_model"\nreward_model = "m"', 'tasks.0.threshold: grader = "reward_model" needs it'),
        ('path = "x.jsonl"\nreward_model = "m"', 'tasks.0.reward_model: only grader = "reward_model" asks it'),
        ('path = "x.jsonl"\nprompt_template = "{a.b}"', "tasks.0.prompt_template: {a.b} is not the plain name of a column"),
        ('path = "x.jsonl"\npreset = "mmlu-pro"', "did you mean 'mmlu_pro'?"),
    ],
)
def test_a_recipe_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    problems = recipe(tmp_path, text)
    assert len(problems) == 1 and said in problems[0], problems


def test_a_broken_grader_is_found_before_compute_is_spent(tmp_path: Path) -> None:
    jsonl(QUESTIONS)
    Path("broken_grader.py").write_text("def judge(prompt, answer, text): return 1 / 0")
    assert recipe(tmp_path, 'path = "mine.jsonl"\ngrader = "broken_grader:judge"') == []
    checked, _ = read_recipe(tmp_path / "recipe.toml")
    assert checked is not None
    found = [problem for problem in find_problems(checked) if "raised ZeroDivisionError" in problem.what]
    assert len(found) == 1 and "on row mine.jsonl:" in found[0].where
