"""One task of a plan: the shapes of its models, the lengths of its texts, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from distillability.budgets import LARGEST_RECORD_BYTES, NARROW_WIDTH
from distillability.config.recipe import Calibrate, Distill, Recipe
from distillability.config.recipe import Task as TaskConfig
from distillability.errors import Problem, UserError
from distillability.models.facts import ModelFacts, read_facts
from distillability.models.lengths import Lengths, prompt_tokens
from distillability.models.shape import ModelShape, model_shape
from distillability.planning.hardware import Hardware
from distillability.planning.work import Work, forward
from distillability.runs.students import Student, students_of
from distillability.tasks import build_task

__all__ = ["Assumptions", "PlannedTask"]

_PROMPTS = 200  # of the query split, whose lengths stand for all
_SMALLEST_CAST_WIDTH = 128  # on a processor, casts cost narrower models more than their products gain


@dataclass(frozen=True)
class Assumptions:
    """What the files do not say.

    Attributes:
        prompt_length: tokens of a rendered prompt; measured on the task's own prompts where None.
        completion_length: mean tokens of a completion; the longest that the recipe allows where None.
        distinct: share of the completions of a group that differ; what is equal is computed once.
        sharded: weights, gradients and optimiser state are divided over the devices (FSDP, ZeRO-3).
    """

    prompt_length: int | None = None
    completion_length: int | None = None
    distinct: float = 1.0
    sharded: bool = False


@dataclass(frozen=True)
class PlannedTask:
    """What is known of a task before anything is loaded; roles are `teacher`, `proxy`, `proxies.N` and `student`."""

    recipe: Recipe
    config: TaskConfig
    hardware: Hardware
    assumptions: Assumptions
    _estimated: dict[str, str] = field(default_factory=dict)

    def problems(self) -> list[Problem]:
        """What keeps it from being planned: configurations that cannot be had or counted, prompts that cannot be read."""
        found: list[Problem] = []
        for read, role in [*((self.shape, role) for role in self.config.models), (self.lengths, "teacher")]:
            try:
                read(role)
            except UserError as error:
                found += error.problems
        return found

    @property
    def proxies(self) -> list[str]:
        return [role for role in self.config.models if role.startswith("prox")]

    @cached_property
    def students(self) -> list[Student]:
        return students_of(self.recipe, self.config)

    @cached_property
    def _facts(self) -> dict[str, ModelFacts]:
        return {}

    def facts(self, role: str) -> ModelFacts:
        """What the small files of a role's model say."""
        if role not in self._facts:
            self._facts[role] = read_facts(self.config.models[role])
        return self._facts[role]

    def shape(self, role: str) -> ModelShape:
        facts = self.facts(role)
        return model_shape(facts.reference, facts.config)

    @cached_property
    def _texts(self) -> list[str]:
        return [prompt.text for prompt in build_task(self.config).prompts("query", _PROMPTS)]

    def lengths(self, role: str) -> Lengths:
        """Completions are as many times longer under another tokenizer as prompts are."""
        completion = float(self.assumptions.completion_length or self.config.max_completion_length)
        if self.assumptions.prompt_length is not None:
            return Lengths(self.assumptions.prompt_length, completion)
        prompt = self._prompt_tokens[role]
        return Lengths(prompt, completion * prompt / self._prompt_tokens["teacher"])

    @cached_property
    def _prompt_tokens(self) -> dict[str, float]:
        found = {}
        for role in self.config.models:
            facts = self.facts(role)
            found[role], counted = prompt_tokens(facts.tokenizer_folder, facts.chat_template, self._texts)
            if not counted:
                self._estimated[role] = f"{self.config.name}: the {role}'s prompt tokens are estimated (--prompt-length)"
        return found

    def dtype(self, role: str) -> str:
        """Of autocast: the recipe's, or the faster of the two; half must win by a tenth."""
        if self.recipe.dtype != "auto":
            return self.recipe.dtype
        if self.shape(role).hidden_size < _SMALLEST_CAST_WIDTH and not self.hardware.is_accelerator:
            return "float32"
        plain, half = (self._seconds(role, name) for name in ("float32", "bfloat16"))
        return "bfloat16" if 1.1 * half < plain else "float32"

    def _seconds(self, role: str, dtype: str) -> float:
        """Of a pass over a batch."""
        return self.forward(role, rows=64, positions=0, dtype=dtype).seconds(self.hardware, dtype)

    def decoding_dtype(self, role: str) -> str:
        wide = self.shape(role).hidden_size >= NARROW_WIDTH or self.hardware.is_accelerator
        return self.dtype(role) if wide else "float32"

    def trained(self, role: str) -> int:
        """Weights that an optimiser changes."""
        lora, shape = self.recipe.calibrate.lora, self.shape(role)
        if role in self.proxies:
            return 0
        return shape.adapter_weights(lora.r, lora.target_modules) if lora and role == "teacher" else shape.n_weights

    def settings(self, role: str) -> Calibrate | Distill:
        """How a role is trained."""
        return self.recipe.distill if role == "student" else self.recipe.calibrate

    def distinct(self, samples: float) -> float:
        """How many of the completions of one prompt differ."""
        return max(1.0, samples * self.assumptions.distinct)

    def record(self, queries: float) -> tuple[Literal["states", "log-probabilities"], float]:
        """What is kept of a teacher's forward pass over so many traces, and its bytes: states with the head where they take less place."""
        shape, n_tokens = self.shape("teacher"), queries * self.lengths("teacher").completion
        states = (2 if self.dtype("teacher") == "bfloat16" else 4) * (n_tokens + shape.vocab_size) * shape.hidden_size
        logprobs = 2 * n_tokens * shape.vocab_size
        return ("states", states) if states < logprobs else ("log-probabilities", logprobs)

    def is_recorded(self, queries: float) -> bool:
        """Whether that is small enough to be kept."""
        return self.record(queries)[1] <= LARGEST_RECORD_BYTES

    def forward(self, role: str, *, rows: float, positions: float | None = None, dtype: str | None = None, passes: float = 1) -> Work:
        """A pass over whole texts of the task, logits at completions unless `positions` says how many."""
        lengths = self.lengths(role)
        return forward(
            self.shape(role),
            rows=rows,
            length=lengths.whole,
            positions=rows * lengths.completion if positions is None else positions,
            hardware=self.hardware,
            dtype=dtype or self.dtype(role),
            passes=passes,
        )

    def notes(self) -> Iterator[str]:
        """What was assumed."""
        yield from self._estimated.values()
        if self.assumptions.completion_length is None:
            limit = self.config.max_completion_length
            yield f"{self.config.name}: every completion is as long as the recipe allows, {limit} tokens (--completion-length)"
        if self.assumptions.distinct == 1.0:
            yield "no two completions of a prompt are equal (--distinct)"
