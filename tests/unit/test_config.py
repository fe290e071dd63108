"""Recipes: loading, overriding, and everything that is wrong at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from distillability.config.load import canonical_json, changed_keys, load_recipe, read_recipe, recipe_digest
from distillability.config.recipe import Recipe
from distillability.config.schema import describe, fields_at
from distillability.errors import UserError

RECIPE = """\
name = "example"

[[tasks]]
type = "maths"
teacher = "lab:maths/teacher"
proxy = "lab:maths/proxy"
student = "lab:maths/student"
queries = 100
steps = 50
max_completion_length = 40

[[tasks]]
name = "longer"
type = "maths"
operations = 6
teacher = "lab:maths/teacher"
proxy = "lab:maths/proxy"
student = "lab:maths/student"
queries = 200
steps = 50
max_completion_length = 60

[calibrate]
max_steps = 10

[calibrate.teachers.up]
knob = 0.3
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def problems_of(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_good_recipe_loads_and_its_digest_is_that_of_its_canonical_text(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert [task.name for task in recipe.tasks] == ["maths", "longer"]
    assert recipe_digest(recipe) == hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def test_the_digest_sees_values_and_not_the_way_they_are_written(recipe_file: Path) -> None:
    before = recipe_digest(load_recipe(recipe_file))
    assert recipe_digest(load_recipe(recipe_file, ["distill.batch_size=48"])) == before  # the default, spelt out
    assert recipe_digest(load_recipe(recipe_file, ["distill.batch_size=47"])) != before


def test_the_resolved_recipe_of_a_run_loads_as_the_same_recipe(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["calibrate.clip=none"])
    (tmp_path / "recipe.json").write_text(canonical_json(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("tasks.0.queries=10", lambda recipe: recipe.tasks[0].queries, 10),
        ("tasks.maths.queries=10", lambda recipe: recipe.tasks[0].queries, 10),
        ("tasks.longer.queries = 10", lambda recipe: recipe.tasks[1].queries, 10),
        ("tasks.longer.learning_rates.seqkd=1e-3", lambda recipe: recipe.tasks[1].learning_rates, {"seqkd": 1e-3}),
        ("calibrate.learning_rate=.5", lambda recipe: recipe.calibrate.learning_rate, 0.5),
        ("calibrate.gate=none", lambda recipe: recipe.calibrate.gate, "none"),
        ("calibrate.clip=none", lambda recipe: recipe.calibrate.clip, None),
        ("calibrate.normaliser=none", lambda recipe: recipe.calibrate.normaliser, "none"),
        ('calibrate.teachers."knob_-0.3".knob=-0.3', lambda recipe: recipe.calibrate.teachers["knob_-0.3"].knob, -0.3),
        ("distill.arms.0.seeds=3", lambda recipe: (recipe.distill.arms[0].seeds, recipe.distill.arms[0].sources[0]), (3, "plain")),
        ('distill.arms=[{sources=["plain"]}]', lambda recipe: recipe.distill.arms[0].sources, ["plain"]),
        ("tasks.0.teacher=a=b", lambda recipe: recipe.tasks[0].teacher, "a=b"),
        ("tasks.0.teacher=models/x y", lambda recipe: recipe.tasks[0].teacher, "models/x y"),
    ],
)
def test_overrides_reach_their_place(recipe_file: Path, override: str, read, value) -> None:  # type: ignore[no-untyped-def]
    assert read(load_recipe(recipe_file, [override])) == value


def test_a_file_overrides_what_it_names(recipe_file: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "small.toml"
    overlay.write_text(
        "seed = 3\n[calibrate]\nmax_steps = 2\nteachers.distillable.knob = 0.5\n"
        '[tasks.0]\nqueries = 7\n[tasks.longer]\nlearning_rates = { seqkd = 0.5 }\n[distill]\narms = [{ sources = ["plain"] }]\n'
    )
    before, after = load_recipe(recipe_file), load_recipe(recipe_file, [str(overlay), "tasks.0.steps=9"])
    changes = changed_keys(before, after)
    assert (after.seed, after.calibrate.max_steps, after.tasks[0].queries, after.tasks[0].steps) == (3, 2, 7, 9)
    assert after.tasks[1].learning_rates == {"seqkd": 0.5} and after.tasks[1].queries == 200
    assert [arm.sources for arm in after.distill.arms] == [["plain"]]
    assert after.calibrate.teachers.keys() == before.calibrate.teachers.keys() | {"distillable"}
    assert all(key.startswith(("seed", "calibrate.", "tasks.", "distill.arms")) for key in changes)
    assert load_recipe(recipe_file, [str(overlay), "seed=4"]).seed == 4  # the later one wins


def test_an_empty_section_of_a_file_of_overrides_changes_nothing(recipe_file: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "small.toml"
    overlay.write_text("[evaluate]\n# teacher_prompts = 10\n[calibrate]\n")
    before = load_recipe(recipe_file, ["evaluate.teacher_prompts=2000", "calibrate.max_steps=3"])
    assert load_recipe(recipe_file, ["evaluate.teacher_prompts=2000", "calibrate.max_steps=3", str(overlay)]) == before
    overlay.write_text("[calibrate]\nlora = {}\n[diagnose]\n")  # these ask for something by being there
    asked = load_recipe(recipe_file, [str(overlay)])
    assert asked.calibrate.lora is not None and asked.diagnose is not None


def test_a_file_of_overrides_that_is_wrong_is_named(recipe_file: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "small.toml"
    with pytest.raises(UserError, match=r"small\.toml: there is no such recipe"):
        load_recipe(recipe_file, [str(overlay)])
    overlay.write_text("seed =")
    with pytest.raises(UserError, match=r"small\.toml: not TOML"):
        load_recipe(recipe_file, [str(overlay)])
    overlay.write_text("[calibrate]\nmax_step = 2\n[tasks.9]\nqueries = 1\n")
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file, [str(overlay)])
    assert {problem.where for problem in caught.value.problems} == {f"--set {overlay}"}
    assert "'max_steps'" in str(caught.value) and "tasks has no '9'" in str(caught.value)


def test_an_override_inside_a_default_keeps_the_rest_of_the_default(recipe_file: Path) -> None:
    text = RECIPE.split("[calibrate]")[0]
    recipe_file.write_text(text, encoding="utf-8")
    teachers = load_recipe(recipe_file, ["calibrate.teachers.distillable.knob=0.5"]).calibrate.teachers
    assert {name: teacher.knob for name, teacher in teachers.items()} == {"distillable": 0.5, "undistillable": -1.0}


def test_overriding_one_recipe_leaves_the_defaults_of_the_next_alone(recipe_file: Path) -> None:
    load_recipe(recipe_file, ["distill.arms.0.sources.0=plain_greedy", "calibrate.teachers.up.knob=9"])
    assert load_recipe(recipe_file).distill.arms[0].sources[0] == "plain"


def test_an_unknown_key_is_named_with_its_line_and_its_nearest_neighbour(recipe_file: Path) -> None:
    recipe_file.write_text(RECIPE.replace("operations = 6", "opertions = 6"), encoding="utf-8")
    message = problems_of(recipe_file)
    line = RECIPE.splitlines().index("operations = 6") + 1
    assert f"{recipe_file}:{line}: tasks.1.opertions: unknown key" in message
    assert "did you mean 'operations'?" in message


def test_the_line_is_that_of_the_second_task_and_not_of_the_first(recipe_file: Path) -> None:
    recipe_file.write_text(RECIPE.replace("queries = 200", "queries = 0"), encoding="utf-8")
    assert f"{recipe_file}:{RECIPE.splitlines().index('queries = 200') + 1}: tasks.1.queries" in problems_of(recipe_file)


def test_all_problems_are_reported_at_once_each_with_its_origin(recipe_file: Path) -> None:
    text = (
        RECIPE.replace("max_steps = 10", 'max_stes = 10\ngate = "corect"\nclip = nan').replace('name = "longer"\n', "") + "\n[nonsense]\n"
    )
    recipe_file.write_text(text, encoding="utf-8")
    message = problems_of(recipe_file, "calibrate.num_generations=1", "tasks.9.queries=1", "nothing", "distill.arms.0.nope.x=1")
    for expected in (
        "did you mean 'max_steps'?",
        "did you mean 'correct'?",
        "calibrate.clip: should be a finite number",
        "nonsense: unknown key",
        "--set calibrate.num_generations=1: calibrate.num_generations: should be greater than or equal to 2, not 1",
        "GRPO compares the completions of one prompt",
        "--set tasks.9.queries=1: tasks has no '9'; it has maths, maths",
        "--set nothing: not KEY=VALUE",
        "--set distill.arms.0.nope.x=1: distill.arms.0.nope: unknown key",
        "task names must differ",
    ):
        assert expected in message
    assert message.count("task names must differ") == 1


def test_missing_keys_say_what_they_are_for(recipe_file: Path) -> None:
    recipe_file.write_text(RECIPE.replace("queries = 100\n", ""), encoding="utf-8")
    assert "tasks.0.queries: missing\n    fix: add queries = … (Q, the headline number of traces" in problems_of(recipe_file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = example", "not TOML: Invalid value (at line 1"),
        ('name = "x"\ntasks = []', "tasks: List should have at least 1 item"),
        ('name = "x"\n[[tasks]]\nteacher = "y"', "a task without a type"),
        ('name = "x"\n[[tasks]]\ntype = "math"', "unknown task type 'math'"),
        ('name = "../x"\n[[tasks]]\ntype = "maths"', "use letters, digits"),
    ],
)
def test_broken_files_are_told_what_is_wrong(recipe_file: Path, text: str, expected: str) -> None:
    recipe_file.write_text(text, encoding="utf-8")
    assert expected in problems_of(recipe_file)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "there is no such recipe" in problems_of(tmp_path / "none.toml")
    assert "cannot be read" in problems_of(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    assert "cannot be read" in problems_of(tmp_path / "latin.toml")


def test_what_is_right_in_a_broken_recipe_can_still_be_checked(recipe_file: Path) -> None:
    recipe, problems = read_recipe(recipe_file, ["calibrate.nope=1", "tasks.0.queries=-1", "tasks.0.teacher=somewhere"])
    assert len(problems) == 2
    assert isinstance(recipe, Recipe)
    assert recipe.tasks[0].teacher == "somewhere"


def test_changed_keys_are_dotted_and_carry_both_values(recipe_file: Path) -> None:
    before = load_recipe(recipe_file)
    after = load_recipe(recipe_file, ["tasks.longer.queries=5", "calibrate.teachers.down.knob=-1", "calibrate.clip=none"])
    assert changed_keys(before, before) == {}
    assert changed_keys(before, after) == {
        "tasks.1.queries": (200, 5),
        "calibrate.teachers.down.knob": (None, -1.0),
        "calibrate.teachers.down.reward": (None, "compatibility"),
        "calibrate.clip": (2.0, None),
    }


def test_the_schema_answers_with_and_without_indexes_and_tags() -> None:
    assert set(fields_at(["calibrate", "teachers", "anything"])) == {"knob", "reward"}
    assert "path" in fields_at(["tasks"]) and "path" not in fields_at(["tasks", 0, "maths"])
    assert set(fields_at(["tasks"])["type"]["enum"]) == {"maths", "knowledge", "instructions", "data"}
    assert describe(["tasks", "0", "queries"]) == describe(["tasks", "queries"]) is not None
    assert describe(["tasks", "querie"]) is None


def test_a_table_that_may_be_left_out_is_known_inside(recipe_file: Path) -> None:
    assert "lora_alpha" in fields_at(("calibrate", "lora"))
    found = describe(("calibrate", "accuracy_floor", "margin"))
    assert found is not None and found["default"] == 0.02
    message = problems_of(recipe_file, "calibrate.lora.lora_alfa=3", "calibrate.accuracy_floor.margin=0.1")
    assert "calibrate.lora.lora_alfa: unknown key" in message and "did you mean 'lora_alpha'" in message
    assert "calibrate.accuracy_floor.accuracy: missing" in message
    recipe = load_recipe(recipe_file, ["calibrate.lora.r=3", "calibrate.accuracy_floor.accuracy=0.9"])
    assert recipe.calibrate.lora is not None and recipe.calibrate.lora.r == 3
    assert load_recipe(recipe_file, ["calibrate.lora=none"]).calibrate.lora is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("calibrate.lora.r=0", "greater than or equal to 1"),
        ("calibrate.lora.lora_dropout=1.0", "less than 1"),
        ('calibrate.lora.save="zip"', "'zip' is none of 'merged' or 'adapter'"),
        ("calibrate.accuracy_floor.accuracy=1.0", "less than 1"),
        ("calibrate.accuracy_floor.completions=100", "greater than or equal to 512"),
        ("calibrate.stops.length_factor=0.5", "greater than 1"),
        ("calibrate.stops.entropy_share=nan", "finite number"),
        ("calibrate.knob_warmup=0", "greater than 0"),
        ('calibrate.reference="proxy"', "'proxy' is none of"),
    ],
)
def test_bad_settings_of_a_calibration(recipe_file: Path, override: str, said: str) -> None:
    message = problems_of(recipe_file, "calibrate.accuracy_floor.accuracy=0.9", override)
    assert said in message and f"--set {override}" in message


def test_only_the_tasks_that_are_named_are_run() -> None:
    path = Path(__file__).parents[2] / "recipes" / "lab.toml"
    assert [task.name for task in load_recipe(path).tasks] == ["maths", "knowledge", "instructions"]
    assert [task.name for task in load_recipe(path, ['only=["knowledge"]']).tasks] == ["knowledge"]
    with pytest.raises(UserError) as caught:
        load_recipe(path, ['only=["music"]'])
    assert "there is no task music" in str(caught.value) and "maths, knowledge, instructions" in str(caught.value)
