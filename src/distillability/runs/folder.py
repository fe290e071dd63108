"""The run folder: made once, never overwritten, and safe to come back to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillability.config.load import changed_keys, recipe_digest
from distillability.config.recipe import Recipe
from distillability.config.sweep import DERIVED, is_sweep
from distillability.errors import Problem, UserError
from distillability.files import read_json, write_json
from distillability.runs.manifest import describe_run

if sys.platform != "win32":
    import fcntl

__all__ = ["RunFolder", "folder_problems"]

_RECIPE, _MANIFEST, _LOCK = "recipe.json", "manifest.json", ".lock"
# Forcing a proxy that failed admission is how a stopped run goes on; it may be switched on later, and is recorded.
_MAY_CHANGE = "calibrate.force"


def folder_problems(path: Path, recipe: Recipe, *, resume: bool) -> list[Problem]:
    """Why `recipe` cannot run in `path`; empty where it can."""
    if path.exists() and not path.is_dir():
        return [Problem(str(path), "a file, not a folder", "choose another folder with --out")]
    if not (path / _RECIPE).is_file():
        if not path.is_dir() or all(entry.name == _LOCK for entry in path.iterdir()):
            return []
        return [Problem(str(path), "the folder is in use and holds no run", "choose an empty or new folder with --out")]
    if not resume:
        return [
            Problem(str(path), "the folder is in use: it holds a run", "continue it with --resume, or choose another folder with --out")
        ]
    try:
        stored = RunFolder.open(path).recipe
        changes = changed_keys(stored, recipe)
    except UserError as error:
        return list(error.problems)
    if changes.get(_MAY_CHANGE) in ((False, True), (True, False)):
        del changes[_MAY_CHANGE]
    if not changes:
        return []
    if is_sweep(stored) and is_sweep(recipe):  # what a sweep derives is said by what it is derived from
        changes = {key: values for key, values in changes.items() if not key.startswith(DERIVED)}
    listed = ", ".join(f"{key} ({before} in the run, {after} now)" for key, (before, after) in changes.items())
    return [
        Problem(str(path), f"the recipe has changed since the run began: {listed}", "set these back, or choose another folder with --out")
    ]


@dataclass(frozen=True)
class RunFolder:
    """A run on disk; `layout` says where things lie in it."""

    path: Path

    @classmethod
    def create(cls, path: Path, recipe: Recipe, *, resume: bool = False, command: Sequence[str] = ()) -> RunFolder:
        """Start a run in a new or empty folder, or come back to one.

        Args:
            resume: continue a run that is there; where none is, start it.
            command: how it was called, for the manifest.

        Raises:
            UserError: the folder is in use, another process works in it, it cannot be written, or it holds a run of another recipe
                (the changed keys are listed).
        """
        problems = folder_problems(path, recipe, resume=resume)
        if problems:
            raise UserError(problems)
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with folder.lock():
                folder._write(recipe, list(command))
        except OSError as error:
            raise UserError.single(str(path), f"cannot be written ({error.strerror})", "choose another folder with --out") from None
        return folder

    def _write(self, recipe: Recipe, command: list[str]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if (self.path / _RECIPE).is_file():
            stored = self.recipe
            force = stored.calibrate.force or recipe.calibrate.force
            recipe = stored.model_copy(update={"calibrate": stored.calibrate.model_copy(update={"force": force})})
        write_json(self.path / _RECIPE, recipe.model_dump(mode="json"))
        manifest = self.manifest
        if not manifest:
            manifest = {"created": now, **describe_run(recipe, command)}
        else:
            again = describe_run(recipe, command)
            differs = {key: again[key] for key in again if again[key] != manifest.get(key)}
            manifest["resumed"] = [*manifest.get("resumed", []), {"at": now, **differs}]
        write_json(self.path / _MANIFEST, manifest)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in `path`.

        Raises:
            UserError: there is none.
        """
        if not path.is_dir():
            raise UserError.single(str(path), "there is no such folder", "give the folder of a run")
        if not (path / _RECIPE).is_file():
            raise UserError.single(str(path), f"not a run folder: no {_RECIPE} in it", "give the folder of a run")
        return cls(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second process; the system lets go of it when this one ends, however it ends.

        Raises:
            UserError: another process works in it.
        """
        if sys.platform == "win32":
            yield
            return
        with (self.path / _LOCK).open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError.single(
                    str(self.path), "another process is working in this folder", "wait for it, or choose another folder with --out"
                ) from None
            yield

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe, as the run began."""
        path = self.path / _RECIPE
        try:
            return Recipe.model_validate(read_json(path))
        except (ValueError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise UserError.single(str(path), f"not a recipe of this version ({first})", "restore it, or start a new run") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved recipe."""
        return recipe_digest(self.recipe)

    @property
    def manifest(self) -> dict[str, Any]:
        """Versions, seeds, processor, code, parents; empty before the first write."""
        path = self.path / _MANIFEST
        try:
            value = read_json(path) if path.is_file() else {}
        except ValueError as error:
            raise UserError.single(str(path), f"not readable as JSON ({error})", "restore it, or start a new run") from None
        return dict(value)

    def record(self, **entries: Any) -> None:
        """Add entries to the manifest, such as the dtype that was measured faster."""
        write_json(self.path / _MANIFEST, {**self.manifest, **entries})

    def finished(self) -> dict[str, int]:
        """How many jobs of each stage have ended."""
        return {stage: sum(1 for _ in (self.path / stage).rglob("done.json")) for stage in ("calibrate", "distill")}
