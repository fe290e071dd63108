"""The reward function that TRL calls: it grades, scores, and returns the advantage of every completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from distillability.config.recipe import Calibrate, Teacher
from distillability.errors import UserError
from distillability.inference import read_completions
from distillability.inference.likelihood import Likelihood, Scorer
from distillability.models.chat import completion_ids as encode_completion
from distillability.models.chat import end_of_turn_id
from distillability.ops.repetition import repeats
from distillability.ops.statistics import pearson
from distillability.rewards.aggregate import aggregate
from distillability.rewards.compatibility import compatibility, length_reward
from distillability.rewards.compose import compose_advantage, counts_as_right, scheduled_knob
from distillability.tasks.base import Task
from distillability.training.floor import Floor
from distillability.training.grading import RewardFailure, grade_text
from distillability.training.stops import CalibrationStopped
from distillability.types import Grade, Prompt

__all__ = ["CompositeReward"]


@dataclass(frozen=True)
class _Scored:
    """One completion: `values` are C by each proxy, or the length alone, nan where missing.

    plain_logprob: log π₀ of it, end of turn included, None where nobody has computed it. reused: the share of its batch that the anchor's
    reference served.
    """

    text: str
    truncated: bool
    repeats: bool
    grade: Grade
    values: tuple[float, ...]
    plain_logprob: float | None
    reused: float | None


@dataclass
class CompositeReward:
    """TRL reward function that returns the advantage of every completion.

    Attributes:
        scale: s_C, the within-group standard deviation of C (or of the length) on the plain teacher.
        reference: scores π_ref, the original teacher or the policy of the moment as `settings.reference` says.
        known_reference: Σ log π₀ of the completions at hand, end of turn included, as the anchor computed it, [N]; None without an anchor.
        metrics: of the last batch it saw; the trainer writes them out.
    """

    task: Task
    settings: Calibrate
    teacher: Teacher
    scale: float
    policy_tokenizer: Any
    proxies: Sequence[Scorer]
    reference: Scorer | None
    prompts: dict[str, Prompt]
    known_reference: Callable[[], torch.Tensor | None] = lambda: None
    floor: Floor | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    __name__: str = "advantage"

    def __call__(
        self, prompts: Sequence[Any], completion_ids: Sequence[list[int]], prompt_id: Sequence[str], trainer_state: Any, **_: Any
    ) -> list[float]:
        try:
            mine: list[_Scored] | str = self._score([self.prompts[key] for key in prompt_id], completion_ids)
        except RewardFailure as failure:
            mine = str(failure)
        found = gather_object([mine])  # what is written describes all processes' completions, and what stops one stops all
        for part in found:
            if isinstance(part, str):
                raise CalibrationStopped(f"{part}, in step {trainer_state.global_step + 1}")
        advantages, self.metrics = self._compose([row for part in found for row in part], trainer_state.global_step)
        own = PartialState().process_index * len(prompt_id)
        return advantages[own : own + len(prompt_id)]

    def _score(self, questions: Sequence[Prompt], ids: Sequence[list[int]]) -> list[_Scored]:
        said = read_completions(self.policy_tokenizer, ids)
        texts, truncated = said.texts, said.truncated
        try:  # before anything can fail in this process alone: where weights are divided, all processes score together
            values, plain, reused = self._calibration_values(questions, texts, truncated, ids)
        except UserError as error:  # a model that gives no finite likelihood, or a text beyond its context
            raise RewardFailure(error.brief) from error
        grades = [grade_text(self.task, *row) for row in zip(questions, texts, truncated, strict=True)]
        columns = zip(texts, truncated, map(repeats, said.ids), grades, values.T.tolist(), plain, strict=True)
        return [_Scored(text, cut, loops, grade, tuple(own), logprob, reused) for text, cut, loops, grade, own, logprob in columns]

    def _compose(self, scored: Sequence[_Scored], step: int) -> tuple[list[float], dict[str, Any]]:
        """The advantage of every completion of whole groups, and what the report's curves show."""
        right = torch.tensor([self._counts_as_right(row.grade) for row in scored])
        values = torch.tensor([row.values for row in scored], dtype=torch.float64).T
        shape, settings = (-1, self.settings.num_generations), self.settings
        knob, multiplier = self._knob(step)
        counted = right if settings.gate == "correct" else torch.ones_like(right)
        advantage = compose_advantage(
            task_reward=right.double().view(shape),
            right=right.view(shape),
            compatibility=aggregate(values.reshape(len(values), *shape), counted.view(shape), settings.proxy_aggregate, self.teacher.knob),
            knob=knob,
            scale=self.scale,
            form=settings.advantage,
            clip=settings.clip,
            gate=settings.gate,
            floor_multiplier=multiplier,
        )
        told = {"knob": knob / (1 + multiplier)} | self._describe(scored, right, values) | advantage.metrics
        return advantage.advantage.flatten().tolist(), told

    def _knob(self, step: int) -> tuple[float, float]:
        """η of this step, and λ of the accuracy floor."""
        settings = self.settings
        knob = scheduled_knob(
            self.teacher.knob, settings.knob_schedule, warmup_share=settings.knob_warmup, step=step, max_steps=settings.max_steps
        )
        if self.floor is None:
            return knob, 0.0
        return (0.0 if self.floor.silent else knob), self.floor.multiplier

    def _counts_as_right(self, grade: Grade) -> bool:
        return counts_as_right(grade, self.settings.require)

    def _calibration_values(
        self, questions: Sequence[Prompt], texts: Sequence[str], truncated: Sequence[bool], ids: Sequence[list[int]]
    ) -> tuple[torch.Tensor, list[float | None], float | None]:
        """C of every completion by each proxy, [K, N] float64, or the length [1, N], nan where missing; equal texts are scored once.

        Returns also log π₀ of every completion, None where nobody knows it, and the share of the texts scored for which the anchor's
        log-probabilities of π₀ served.
        """
        keys = [(question.text, text, cut) for question, text, cut in zip(questions, texts, truncated, strict=True)]
        rows = {key: row for row, key in reversed(list(enumerate(keys)))}
        columns = [list(column) for column in zip(*rows, strict=True)]
        _, answers, cut = columns
        plain = self._known_likelihoods(answers, cut, [ids[row] for row in rows.values()], list(rows.values()))
        reused = None
        if self.teacher.reward == "length":
            values = length_reward(answers, cut)[None]
        else:
            reference = self._reference_likelihoods(columns, plain)
            values = torch.stack([compatibility(proxy.score(*columns), reference, self.settings.normaliser) for proxy in self.proxies])
            reused = sum(a is b for a, b in zip(plain, reference, strict=True) if a is not None) / len(rows)
            plain = reference if self.settings.reference == "original" else plain
        position_of = {key: position for position, key in enumerate(rows)}
        places = [position_of[key] for key in keys]
        known = [None if likelihood is None else likelihood.logprob for likelihood in plain]
        return values[:, places], [known[place] for place in places], reused

    def _reference_likelihoods(self, columns: Sequence[list[Any]], plain: Sequence[Likelihood | None]) -> list[Likelihood | None]:
        """Of texts under π_ref; what the anchor knows already is taken where π_ref is the original teacher."""
        if self.reference is None:
            raise ValueError("the compatibility reward needs a reference scorer")
        found = [likelihood if self.settings.reference == "original" else None for likelihood in plain]
        unknown = [position for position, likelihood in enumerate(found) if likelihood is None]
        rescored = self.reference.score(*([column[position] for position in unknown] for column in columns))
        for position, likelihood in zip(unknown, rescored, strict=True):
            found[position] = likelihood
        return found

    def _known_likelihoods(
        self, texts: Sequence[str], truncated: Sequence[bool], ids: Sequence[list[int]], rows: Sequence[int]
    ) -> list[Likelihood | None]:
        """What the anchor knows of π₀, at temperature 1: for each text that encodes to the very ids that were sampled."""
        sums = self.known_reference()
        if sums is None:
            return [None] * len(texts)
        end = end_of_turn_id(self.policy_tokenizer)
        found: list[Likelihood | None] = []
        for text, cut, sampled, logprob in zip(texts, truncated, ids, sums[list(rows)].tolist(), strict=True):
            same = bool(text) and not cut and [*encode_completion(self.policy_tokenizer, text), end] == list(sampled)
            found.append(Likelihood(logprob, len(sampled) - 1, len(text.encode()), len(text)) if same else None)
        return found

    def _describe(self, scored: Sequence[_Scored], right: torch.Tensor, values: torch.Tensor) -> dict[str, Any]:
        """What the report's calibration curves show; a value that cannot be had is None."""
        n, grades = len(scored), [row.grade for row in scored]
        lengths = torch.tensor([float(len(row.text.encode())) for row in scored], dtype=torch.float64)
        mean = values.nanmean(0)
        counted = right & ~mean.isnan()
        with_steps = [grade.right_steps for grade in grades if grade.right_steps is not None]
        reused = [row.reused for row in scored if row.reused is not None]
        return {
            "n": n,
            "task_reward": right.double().mean().item(),
            "right_steps": sum(with_steps) / len(with_steps) if with_steps else None,
            "compatibility": mean[counted].mean().item() if counted.any() else None,
            "compatibility_by_proxy": [_mean_where(row, right) for row in values],
            "bytes": lengths.mean().item(),
            "truncated": sum(row.truncated for row in scored) / n,
            "repeated": sum(row.repeats for row in scored) / n,
            "nats_per_byte_under_plain": _nats_per_byte(scored),
            "distinct": len({(index // self.settings.num_generations, row.text) for index, row in enumerate(scored)}) / n,
            "correlation_compatibility_bytes": pearson(mean[counted], lengths[counted]),
            "modes": {mode: sum(grade.mode == mode for grade in grades) / n for mode in self.task.modes},
            "answer_only": sum(bool(grade.answer_only) for grade in grades) / n,
            "reference_reused": sum(reused) / len(reused) if reused else None,
        }


def _nats_per_byte(scored: Sequence[_Scored]) -> float | None:
    """−Σ log π₀ over Σ bytes of the completions of which log π₀ is known."""
    known = [(row.plain_logprob, len(row.text.encode())) for row in scored if row.plain_logprob is not None]
    return -sum(logprob for logprob, _ in known) / sum(count for _, count in known) if known else None


def _mean_where(values: torch.Tensor, counted: torch.Tensor) -> float | None:
    kept = values[counted & ~values.isnan()]
    return kept.mean().item() if len(kept) else None
