"""A teacher or a student on the tasks of EleutherAI's lm-evaluation-harness, as rows of `results.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from distillability.config.nearest import nearest
from distillability.errors import Problem, UserError
from distillability.models.facts import NO_TEMPLATE_MEND
from distillability.models.load import LoadedModel
from distillability.results import Row

__all__ = ["OnTasks", "evaluate_on_tasks"]

_METHOD = "normal, from lm-eval's standard error"


@dataclass(frozen=True)
class OnTasks:
    """What lm-eval measured: a row a task and metric; and under which settings and versions, its own among them."""

    rows: list[Row]
    notes: dict[str, Any]


def evaluate_on_tasks(
    loaded: LoadedModel,
    tasks: Sequence[str],
    *,
    role: Literal["teacher", "student"] = "teacher",
    include_path: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    as_chat: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    confidence: float = 0.95,
) -> OnTasks:
    """Evaluate a model on lm-eval's tasks; one row a task and metric, with its n and an interval.

    A metric that lm-eval gives no standard error for has no interval.

    Args:
        tasks: names of tasks, groups or tags, or paths of a task's YAML file.
        include_path: a folder with task files of one's own.
        limit: of each task, the first so many documents; for trials only.
        num_fewshot: examples before each question; the task's own number where None.
        as_chat: questions go through the model's chat template, examples as earlier turns; else they are continued as plain text.
        seed: of the choice of examples, and of torch.

    Raises:
        UserError: lm-eval is not installed, a task is unknown or its data cannot be had, or the model has no chat template.
    """
    if find_spec("lm_eval") is None:
        raise UserError.single("lm-eval", "not installed", "pip install 'distillability[lm-eval]'")
    if as_chat and loaded.tokenizer.chat_template is None:
        raise UserError.single(loaded.reference, "no chat template", f"evaluate it as plain text; or {NO_TEMPLATE_MEND}")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    manager = _index_for(tasks, include_path)
    unknown = list(_unknown(tasks, manager.all_tasks))
    if unknown:
        raise UserError(unknown)
    try:
        found = simple_evaluate(
            HFLM(pretrained=loaded.model, backend="causal", tokenizer=loaded.tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=as_chat,
            fewshot_as_multiturn=as_chat,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except OSError as error:  # what `datasets` raises where a set is not here and the hub is out of reach
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError.single(", ".join(tasks), f"the data cannot be had ({first})", "download it while online") from error
    assert found is not None  # only for a process beside the first
    notes = {"lm_eval": version("lm_eval"), "model": loaded.reference, "limit": limit, "as_chat": as_chat}
    notes |= {"few_shot": found["n-shot"], "task_versions": found["versions"]}
    return OnTasks(list(_rows(found, role, loaded.reference, seed, confidence)), notes)


def _index_for(tasks: Sequence[str], include_path: Path | None) -> Any:
    """lm-eval's index of tasks, without what it brings along where the folder has all that are asked for."""
    folder = None if include_path is None else str(include_path)
    own = _manager(folder, include_defaults=False)
    alone = all(task in own.all_subtasks or (_is_file(task) and _names_no_other(Path(task))) for task in tasks)
    return own if alone else _manager(folder, include_defaults=True)


@cache
def _manager(include_path: str | None, *, include_defaults: bool) -> Any:
    """An index of tasks; reading what lm-eval brings along takes longer than many evaluations."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=include_defaults)


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml")) and Path(task).is_file()


def _names_no_other(file: Path) -> bool:
    """Whether a file is of one task, not of a group of tasks that lm-eval would look up."""
    text = file.read_text(encoding="utf-8")
    return re.search(r"^task:[ \t]*[^\s\[]", text, re.MULTILINE) is not None and re.search(r"^group:", text, re.MULTILINE) is None


def _unknown(tasks: Sequence[str], known: Sequence[str]) -> Iterator[Problem]:
    for task in tasks:
        if task not in known and not _is_file(task):
            guess = nearest(task, known)
            fix = f"did you mean {guess!r}? " if guess else ""
            yield Problem(task or "''", "no task of lm-eval, and no file of one", f"{fix}--include-path FOLDER adds your own tasks")


def _rows(found: Mapping[str, Any], role: Literal["teacher", "student"], source: str, seed: int, confidence: float) -> Iterator[Row]:
    width = NormalDist().inv_cdf((1 + confidence) / 2)
    for task, measured in found["results"].items():
        for key, value in measured.items():
            metric, comma, how = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue  # the task's name, its number of documents, and what belongs to another value
            common: dict[str, Any] = {"task": f"lm_eval:{task}", "split": "test", "role": role, "source": source, "seed": seed}
            common |= {"metric": metric if how == "none" else key, "n": _n(found, task)}
            if not math.isfinite(value):
                yield Row(**common, value=None, reason=f"lm-eval gives {value}")
                continue
            error = measured.get(f"{metric}_stderr,{how}")
            if isinstance(error, int | float) and math.isfinite(error):
                common |= {"ci_low": value - width * error, "ci_high": value + width * error, "interval": _METHOD}
            yield Row(**common, value=float(value))


def _n(found: Mapping[str, Any], task: str) -> int:
    """Documents of a task, or of all tasks in a group."""
    counts = found["n-samples"].get(task)
    if counts is not None:
        return int(counts["effective"])
    return sum(_n(found, inside) for inside in found["group_subtasks"].get(task, ()))
