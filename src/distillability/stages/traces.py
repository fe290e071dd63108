"""Buying texts: one file of traces for each source, and what the teacher says along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distillability.config.sources import Source
from distillability.errors import UserError
from distillability.files import read_jsonl, write_json, write_jsonl
from distillability.inference import complete
from distillability.rewards.aggregate import aggregate
from distillability.rewards.compatibility import compatibility
from distillability.runs.context import TaskContext
from distillability.runs.paths import signals_file, traces_file
from distillability.training.teacher_signals import record_signals
from distillability.types import Prompt, Trace, complete_traces

__all__ = ["draw_traces", "load_traces", "sample_traces"]


def sample_traces(context: TaskContext, source_name: str, calibration: int | None, queries: int, recorded: int, proof: Path) -> int:
    """Write `queries` traces of one source, graded, and record what the teacher says along the first `recorded` of them.

    Returns:
        Tokens of the completions that were drawn.
    """
    source = context.source(source_name)
    prompts = context.task.prompts("query", queries)
    traces, tokens = draw_traces(context, source, calibration, prompts)
    file = traces_file(context.run, context.task_name, source_name, calibration)
    write_jsonl(file, (_row(context, prompt, trace) for prompt, trace in zip(prompts, traces, strict=True)))
    if recorded:
        assert source.teacher is not None
        teacher = context.teacher(source.teacher, calibration)
        signals = record_signals(teacher, complete_traces(traces[:recorded]), autocast_dtype=context.teacher_dtype)
        if signals is not None:
            signals.save(signals_file(context.run, context.task_name, source_name, calibration))
    write_json(proof, {"source": source_name, "calibration": calibration, "queries": len(prompts), "recorded": recorded})
    return tokens


def draw_traces(context: TaskContext, source: Source, calibration: int | None, prompts: Sequence[Prompt]) -> tuple[list[Trace], int]:
    """One text of a source for every prompt, and how many tokens of completions were drawn for them: 0 where no model wrote them.

    Raises:
        UserError: the task lacks what the source needs.
    """
    if source.gold is not None:
        return [Trace(prompt.id, prompt.text, _gold(context, source, prompt)) for prompt in prompts], 0
    assert source.teacher is not None
    loaded = context.teacher(source.teacher, calibration)
    completions = complete(
        loaded,
        [prompt.text for prompt in prompts],
        decoding=source.decoding,
        max_new_tokens=context.config.max_completion_length,
        seed=context.seed("traces", source.name, calibration),
        samples=source.draws,
        temperature=source.temperature,
        prefills=_prefills(context, source, prompts),
        demonstrations=_demonstrations(context) if source.few_shot else (),
        batch_size=context.recipe.evaluate.batch_size,
        autocast_dtype=context.teacher_dtype,
    )
    drawn = [
        Trace(prompt.id, prompt.text, completions.texts[row], completions.truncated[row])
        for row, prompt in enumerate(prompt for prompt in prompts for _ in range(source.draws))
    ]
    del loaded  # two teachers at once may be more than a device holds
    if source.select is not None:
        drawn = _select(context, source, drawn)
    if source.cut == "answer_only":
        drawn = [_cut(context, trace) for trace in drawn]
    return drawn, completions.n_tokens


def load_traces(file: Path, queries: int) -> list[Trace]:
    """The first `queries` traces of a file."""
    return [
        Trace(row["prompt_id"], row["messages"][0]["content"], row["messages"][1]["content"], row["truncated"])
        for row in read_jsonl(file)[:queries]
    ]


def _row(context: TaskContext, prompt: Prompt, trace: Trace) -> dict[str, Any]:
    grade = {} if trace.truncated else asdict(context.task.grade(prompt, trace.text))
    messages = [{"role": "user", "content": trace.prompt}, {"role": "assistant", "content": trace.text}]
    return {"prompt_id": prompt.id, "messages": messages, "truncated": trace.truncated, **grade}


def _gold(context: TaskContext, source: Source, prompt: Prompt) -> str:
    text = context.task.gold_answer(prompt) if source.gold == "answers" else context.task.gold_steps(prompt)
    if text is None:
        raise UserError.single(
            f"source {source.name}", f"the task {context.task_name} has no {source.gold} of its own", "leave it out of the arms"
        )
    return text


def _prefills(context: TaskContext, source: Source, prompts: Sequence[Prompt]) -> list[str] | None:
    if source.prefill is None:
        return None
    prefills = [context.task.prefill if source.prefill == "common" else context.task.oracle_prefill(prompt) for prompt in prompts]
    known = [prefill for prefill in prefills if prefill is not None]
    if len(known) != len(prompts):
        raise UserError.single(f"source {source.name}", f"the task {context.task_name} has no such prefill", "leave it out of the arms")
    return known


def _demonstrations(context: TaskContext) -> list[tuple[str, str]]:
    """A few questions with the reference solution that an attacker wrote for them, or the answer where the task has no steps."""
    shown = context.task.prompts("validate", context.recipe.distill.few_shot)
    solved = [(prompt.text, context.task.gold_steps(prompt) or context.task.gold_answer(prompt)) for prompt in shown]
    return [(prompt, solution) for prompt, solution in solved if solution is not None]


def _select(context: TaskContext, source: Source, drawn: Sequence[Trace]) -> list[Trace]:
    """One of the draws of each prompt: of highest (or lowest) C, or likeliest, by all proxies; where none has one, the first."""
    settings, sign = context.recipe.calibrate, -1.0 if source.select == "worst" else 1.0
    columns = [trace.prompt for trace in drawn], [trace.text for trace in drawn], [trace.truncated for trace in drawn]
    scores = [context.scorer(context.load(name)).score(*columns) for name in context.config.all_proxies]
    if source.select == "likeliest":
        per_proxy = [torch.tensor([one.logprob / max(1, one.n_bytes) if one else torch.nan for one in of_proxy]) for of_proxy in scores]
    else:
        reference = context.scorer(context.plain()).score(*columns)
        per_proxy = [compatibility(of_proxy, reference, settings.normaliser) for of_proxy in scores]
    values = torch.stack(per_proxy).view(len(scores), -1, source.draws)
    found = aggregate(values, torch.ones_like(values[0], dtype=torch.bool), settings.proxy_aggregate, sign)
    picks = (sign * found).nan_to_num(nan=-torch.inf).argmax(dim=1)
    return [drawn[row * source.draws + int(pick)] for row, pick in enumerate(picks)]


def _cut(context: TaskContext, trace: Trace) -> Trace:
    """The trace without its steps; without an answer nothing is left to learn from."""
    text = context.task.answer_only(trace.text)
    return Trace(trace.prompt_id, trace.prompt, text or "", truncated=trace.truncated or text is None)
