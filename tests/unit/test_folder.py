"""The run folder: made once, refused when in use, reopened only for the same recipe."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from distillability.config.load import recipe_digest
from distillability.config.recipe import Recipe
from distillability.errors import Problem, UserError
from distillability.files import read_json
from distillability.runs.folder import RunFolder


def recipe(**calibrate: object) -> Recipe:
    task = {"type": "maths", "teacher": "t", "proxy": "p", "student": "s", "queries": 10, "steps": 5, "max_completion_length": 40}
    return Recipe.model_validate({"name": "example", "tasks": [task], "calibrate": calibrate})


def refusal(path: Path, wanted: Recipe, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        RunFolder.create(path, wanted, **options)
    return str(caught.value)


def test_a_new_run_writes_its_recipe_and_what_it_was_made_with(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "a", recipe(), command=["distillability", "run", "x.toml"])
    assert folder.recipe == recipe()
    manifest = read_json(tmp_path / "runs" / "a" / "manifest.json")
    assert manifest["recipe_digest"] == folder.digest == recipe_digest(recipe())
    assert manifest["command"] == ["distillability", "run", "x.toml"]
    assert manifest["seeds"] == {"run": 0, "calibrations": 1, "students": 1}
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert manifest["processor"]["cores"] >= 1
    assert [parent["model"] for parent in manifest["parents"]] == ["t", "p", "s"]
    assert manifest["code"]["commit"] or manifest["code"]["reason"]


def test_parents_are_known_by_their_contents(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    digests = set()
    for index, content in enumerate(("a", "b", "b")):
        (model / "config.json").write_text(content)
        wanted = recipe()
        task = wanted.tasks[0].model_copy(update={"teacher": str(model)})
        folder = RunFolder.create(tmp_path / str(index), wanted.model_copy(update={"tasks": [task]}))
        digests.add(folder.manifest["parents"][0]["sha256"])
    assert len(digests) == 2 and None not in digests


def test_an_existing_run_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", recipe())
    before = (tmp_path / "a" / "manifest.json").read_bytes()
    message = refusal(tmp_path / "a", recipe())
    assert "in use" in message and "--resume" in message
    assert (tmp_path / "a" / "manifest.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused_even_on_resume(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "in use and holds no run" in refusal(tmp_path, recipe())
    assert "in use and holds no run" in refusal(tmp_path, recipe(), resume=True)
    assert "a file, not a folder" in refusal(tmp_path / "notes.txt", recipe())


def test_an_empty_folder_and_a_resume_of_nothing_start_a_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", recipe()).recipe == recipe()
    assert RunFolder.create(tmp_path / "new", recipe(), resume=True).recipe == recipe()


def test_a_folder_that_was_killed_while_it_was_made_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()  # killed before the recipe
    RunFolder.create(tmp_path / "a", recipe())
    (tmp_path / "a" / "manifest.json").unlink()  # killed between recipe and manifest
    assert RunFolder.create(tmp_path / "a", recipe(), resume=True).manifest["recipe_digest"] == recipe_digest(recipe())


def test_resuming_the_same_recipe_is_noted(tmp_path: Path) -> None:
    created = RunFolder.create(tmp_path / "a", recipe(), command=["one"])
    created.record(autocast={"maths": "float32"})
    resumed = RunFolder.create(tmp_path / "a", recipe(), resume=True, command=["two"])
    assert resumed.manifest["command"] == ["one"]
    assert [entry["command"] for entry in resumed.manifest["resumed"]] == [["two"]]
    assert resumed.manifest["autocast"] == {"maths": "float32"}


def test_resuming_a_changed_recipe_lists_what_changed(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", recipe(max_steps=10))
    message = refusal(tmp_path / "a", recipe(max_steps=20, clip=None), resume=True)
    assert "calibrate.max_steps (10 in the run, 20 now)" in message
    assert "calibrate.clip (2.0 in the run, None now)" in message
    assert "save_steps" not in message


def test_forcing_a_proxy_may_be_decided_later_and_stays_decided(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", recipe())
    assert RunFolder.create(tmp_path / "a", recipe(force=True), resume=True).recipe.calibrate.force
    again = RunFolder.create(tmp_path / "a", recipe(), resume=True)
    assert again.recipe.calibrate.force
    assert again.manifest["resumed"][0]["recipe_digest"] == again.digest != again.manifest["recipe_digest"]


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    for path, expected in ((tmp_path, "not a run folder"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=expected):
            RunFolder.open(path)


def test_a_corrupt_recipe_is_the_users_to_mend(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a", recipe())
    for content in ("{", '{"name": "x"}', "[]"):
        (folder.path / "recipe.json").write_text(content)
        with pytest.raises(UserError, match="not a recipe of this version"):
            folder.recipe  # noqa: B018 - reading it is the test


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_a_second_process_is_kept_out_while_the_first_lives(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a", recipe())
    script = f"""
import pathlib, sys
from distillability.runs.folder import RunFolder
with RunFolder(pathlib.Path({str(folder.path)!r})).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), folder.lock():
            pass
        assert "another process" in refusal(folder.path, recipe(), resume=True)
        holder.kill()
        holder.wait()
        with folder.lock():
            pass


def test_a_users_mistake_crosses_a_process_boundary_whole() -> None:
    error = UserError([Problem("a", "b", "c"), Problem("d", "e")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
