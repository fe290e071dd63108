"""What the repository says of itself: pins, recipes, links, and who may touch the Trainer."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distillability.config.load import load_recipe
from distillability.config.sweep import derive
from distillability.stages.preflight import find_problems

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "distillability"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_UNPINNED = {"vllm"}  # an extra that `make` never installs


def pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line and line[0] != "#")}


def direct_requirements() -> list[Requirement]:
    extras = [text for extra, texts in PROJECT["optional-dependencies"].items() if extra not in _UNPINNED for text in texts]
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", direct_requirements(), ids=str)
def test_what_is_asked_for_is_pinned_within_its_range(requirement: Requirement) -> None:
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} has no line in constraints.txt"
    assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement} does not allow {pinned}"


def test_pins_name_no_local_build() -> None:
    assert not [name for name, version in pins().items() if "+" in version]


# Those of `paper` and `one-gpu` need models of a hub, and SmolLM2's are built first (tests/smoke/test_smollm.py validates them then).
ELSEWHERE = ("paper", "one-gpu", "smollm")
SHIPPED = [path for path in sorted((ROOT / "recipes").rglob("*.toml")) if not {path.parent.name, path.stem} & set(ELSEWHERE)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_can_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path)
    assert find_problems(recipe) == []
    assert find_problems(derive(recipe)) == []  # what `distillability sweep` would run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_readme_names_every_folder_of_the_package() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {folder for folder in folders if f"{folder}/" not in tree} == set()


def test_only_training_imports_the_trainer() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers"
        if any(name.name in {"Trainer", "TrainingArguments"} for name in node.names)
    }
    assert users == {"training"}
