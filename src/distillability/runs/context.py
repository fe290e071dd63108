"""What every job of one task needs, built in whichever process the job runs in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from distillability.config.recipe import Recipe
from distillability.config.recipe import Task as TaskConfig
from distillability.config.sources import Source, parse_source
from distillability.inference.likelihood import Scorer
from distillability.models.load import LoadedModel, initialise_student, load_model, load_tokenizer
from distillability.runs.paths import calibration_folder
from distillability.tasks import Task, build_task

__all__ = ["TaskContext"]


@dataclass(frozen=True)
class TaskContext:
    """A recipe, one of its tasks, and the run's folder; picklable, models are loaded where they are used.

    `autocast` is the dtype of `teacher` and `student` work (scoring, decoding, training), resolved when the run began: `float32` or
    `bfloat16`. A small student can be slower in the dtype that makes its teacher faster.
    """

    recipe: Recipe
    task_name: str
    run: Path
    autocast: dict[str, str]

    @cached_property
    def config(self) -> TaskConfig:
        return next(task for task in self.recipe.tasks if task.name == self.task_name)

    @cached_property
    def task(self) -> Task:
        return build_task(self.config)

    @property
    def teacher_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.autocast["teacher"] == "bfloat16" else None

    @property
    def student_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.autocast["student"] == "bfloat16" else None

    def source(self, name: str) -> Source:
        """The named source; the recipe was validated, so it exists."""
        source = parse_source(name, self.recipe.calibrate.teachers)
        if source is None:
            raise KeyError(name)
        return source

    def load(self, reference: str | Path) -> LoadedModel:
        return load_model(reference, **self.recipe.loading)

    def plain(self) -> LoadedModel:
        return self.load(self.config.teacher)

    def teacher(self, name: str, calibration: int | None) -> LoadedModel:
        """The plain teacher, or a calibrated one of this run."""
        if name == "plain":
            return self.plain()
        return self.load(calibration_folder(self.run, self.task_name, name, calibration or 0) / "model")

    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the plain teacher, and of all that are made of it."""
        return load_tokenizer(self.config.teacher, **self.recipe.loading)

    def untrained_student(self, seed: int) -> LoadedModel:
        """What student number `seed` is before it has learnt anything: its checkpoint, or weights of its own where the recipe says so."""
        if self.recipe.distill.student_init == "checkpoint":
            return self.load(self.config.student)
        return initialise_student(self.config.student, self.seed("student", seed), **self.recipe.loading)

    def scorer(self, loaded: LoadedModel) -> Scorer:
        return Scorer(loaded.model, loaded.tokenizer, autocast_dtype=self.teacher_dtype)

    def seed(self, *parts: object) -> int:
        """A seed of its own for every use of randomness, from the recipe's seed and a name."""
        digest = hashlib.sha256(repr((self.recipe.seed, self.task_name, *parts)).encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1
