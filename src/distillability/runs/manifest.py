"""What a run was made with: versions, seeds, processor, code, and the models and data it started from."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import distillability
from distillability.config.load import recipe_digest
from distillability.config.recipe import DataTask, InstructionsTask, Recipe
from distillability.errors import UserError
from distillability.models.locate import locate

__all__ = ["code_state", "describe_run", "processor", "versions"]

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "scipy", "pydantic")
_HASHED_BYTES = 512 * 2**20  # above this, names and sizes stand for the contents
_DIFF_CHARACTERS = 200_000
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe_run(recipe: Recipe, command: list[str]) -> dict[str, Any]:
    """The manifest of a run that starts now."""
    return {
        "schema": 1,
        "name": recipe.name,
        "recipe_digest": recipe_digest(recipe),
        "command": command,
        "seeds": {
            "run": recipe.seed,
            "calibrations": recipe.calibrate.calibrations,
            "students": max((arm.seeds for arm in recipe.distill.arms), default=0),
        },
        "versions": versions(),
        "processor": processor(),
        "code": code_state(),
        "parents": list(_parents(recipe)),
    }


def versions() -> dict[str, str | None]:
    """Of Python, of this package and of those it leans on; null where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "distillability": distillability.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def processor() -> dict[str, Any]:
    """The machine, as far as the operating system tells."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "model": platform.processor() or None,
        "cores": usable,
    }
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        info["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (OSError, ValueError):
        return info
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    info["model"] = fields.get("model name", info["model"])
    info["flags"] = [flag for flag in _FLAGS if flag in fields.get("flags", "").split()]
    return info


def code_state() -> dict[str, Any]:
    """Commit and uncommitted changes of the code that runs; null with a reason where it is not run from a repository."""
    package = Path(distillability.__file__).resolve().parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "reason": "the package does not run from a git checkout"}
    diff = _git(package, "diff", "HEAD", "--", ".") or ""
    untracked = (_git(package, "ls-files", "--others", "--exclude-standard", "--", ".") or "").splitlines()
    state: dict[str, Any] = {
        "commit": (_git(package, "rev-parse", "HEAD") or "").strip(),
        "clean": not diff and not untracked,
        "untracked": untracked,
    }
    if diff:
        state["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest()
        state["diff"] = diff if len(diff) <= _DIFF_CHARACTERS else None
    return state


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _parents(recipe: Recipe) -> Iterator[dict[str, Any]]:
    models = dict.fromkeys(reference for task in recipe.tasks for reference in task.models.values())
    models |= dict.fromkeys(task.reward_model for task in recipe.tasks if isinstance(task, InstructionsTask) and task.reward_model)
    for reference in models:
        yield {"model": reference, **_fingerprint(reference)}
    for task in recipe.tasks:
        if isinstance(task, DataTask):
            yield {"data": task.path, "subset": task.subset, "split": task.split, "revision": task.revision, **_data_digest(task.path)}


def _fingerprint(reference: str) -> dict[str, Any]:
    try:
        path = Path(locate(reference))
    except UserError as error:
        return {"sha256": None, "reason": error.problems[0].what}
    if not path.exists():
        return {"sha256": None, "reason": "a model of the hub"}
    return _digest([path] if path.is_file() else sorted(inside for inside in path.iterdir() if inside.is_file()))


def _data_digest(path: str) -> dict[str, Any]:
    place = Path(path).expanduser()
    if not place.exists():
        return {"sha256": None, "reason": "a data set of the hub"}
    return _digest([place] if place.is_file() else sorted(inside for inside in place.rglob("*") if inside.is_file()))


def _digest(paths: list[Path]) -> dict[str, Any]:
    """One digest over files: their names, sizes and, up to half a gigabyte in all, contents."""
    digest = hashlib.sha256()
    try:
        sizes = [path.stat().st_size for path in paths]
        whole = sum(sizes) <= _HASHED_BYTES
        for path, size in zip(paths, sizes, strict=True):
            digest.update(f"{path.name}\0{size}\0".encode())
            if whole:
                digest.update(path.read_bytes())
    except OSError as error:
        return {"sha256": None, "reason": str(error.strerror)}
    return {"sha256": digest.hexdigest(), "of": "contents" if whole else "names and sizes"}
