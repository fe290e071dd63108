"""Everything that can be known to go wrong before compute is spent, found in one go; without torch, but where a reward model grades."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from distillability.config.nearest import nearest
from distillability.config.objectives import OBJECTIVE_RECORDS, ObjectiveRecord, record_of
from distillability.config.recipe import Recipe
from distillability.config.recipe import Task as TaskConfig
from distillability.config.sources import SWEEP, Source, parent_of, parse_source, source_names
from distillability.errors import Problem, UserError
from distillability.models.facts import NO_TEMPLATE_MEND, ModelFacts, read_facts
from distillability.runs.launch_checks import launch_problems
from distillability.runs.paths import numbered
from distillability.tasks import Task, build_task
from distillability.types import SPLITS, Prompt

__all__ = ["find_problems"]

_HEADS = frozenset({"lm_head", "embed_out", "output"})  # no layers that an adapter may change
_GRADED_PROMPTS = 100  # of each split, to see that the grader accepts the task's own answers
_LONGEST_PROMPTS = 20  # that are tokenised, to see whether they fit the context


def find_problems(recipe: Recipe) -> list[Problem]:
    """All that is wrong with a recipe in itself, its models and its data; empty where it can run."""
    problems = [*_name_problems(recipe), *_template_problems(recipe), *_step_problems(recipe), *_arm_problems(recipe)]
    problems += launch_problems(recipe, os.environ)
    for config in recipe.tasks:
        problems += _task_problems(recipe, config)
    return list(dict.fromkeys(problems))  # two tasks with one broken model say so once


# --- the recipe in itself ----------------------------------------------------------------------------------------------------------


def _name_problems(recipe: Recipe) -> Iterator[Problem]:
    """Names of tasks and teachers become folders, and teachers' names must not mean something else already."""
    named = [(f"tasks.{task.name}", task.name) for task in recipe.tasks]
    named += [(f"calibrate.teachers.{name}", name) for name in recipe.calibrate.teachers]
    for where, name in named:
        if not name or name.startswith(".") or not all(character.isalnum() or character in "._-+" for character in name):
            yield Problem(where, f"{name!r} cannot name a folder", "use letters, digits, dots, dashes and underscores")
    reserved = {"none", SWEEP, *source_names(())}
    for name in recipe.calibrate.teachers:
        if name in reserved:
            yield Problem(f"calibrate.teachers.{name}", f"{name!r} already names another source", "give the teacher another name")
        parent = parent_of(name)
        if parent is not None:
            what = f"{name!r} reads as a way of asking a teacher {parent!r}"
            yield Problem(f"calibrate.teachers.{name}", what, "give the teacher another name")
        repeated = [other for other in recipe.calibrate.teachers if name in _folders_of_repeats(other, recipe.calibrate.calibrations)]
        if repeated:
            what = f"{name!r} is also where a further calibration of {repeated[0]!r} is kept"
            yield Problem(f"calibrate.teachers.{name}", what, "give the teacher another name")


def _folders_of_repeats(teacher: str, calibrations: int) -> list[str]:
    return [numbered(teacher, number) for number in range(1, calibrations)]


def _step_problems(recipe: Recipe) -> Iterator[Problem]:
    """A step is made of whole micro-batches: what is left over would be dropped, and with it prompts of every step."""
    calibrate = recipe.calibrate
    step, micro_batch = calibrate.prompts_per_step * calibrate.num_generations, calibrate.per_device_train_batch_size
    if calibrate.teachers and micro_batch is not None and micro_batch < step and step % micro_batch:
        what = f"a step of {calibrate.prompts_per_step} x {calibrate.num_generations} completions is not a multiple of {micro_batch}"
        fits = [size for size in range(1, micro_batch + 1) if step % size == 0]
        yield Problem("calibrate.per_device_train_batch_size", what, f"use {fits[-1]}, or another divisor of {step}")


def _template_problems(recipe: Recipe) -> Iterator[Problem]:
    path = recipe.chat_template
    if path not in (None, "plain") and not Path(path).expanduser().is_file():
        yield Problem(f"chat_template = {path}", "there is no such file", 'give the path of a Jinja file, or "plain"')


def _arm_problems(recipe: Recipe) -> Iterator[Problem]:
    for name in recipe.diagnose.sources if recipe.diagnose else ():
        if parse_source(name, recipe.calibrate.teachers) is None:
            yield _unknown_source("diagnose.sources", name, source_names(recipe.calibrate.teachers))
    for objective in dict.fromkeys(objective for arm in recipe.distill.arms for objective in arm.objectives):
        yield from _try(partial(record_of, objective))[1]
    for index, arm in enumerate(recipe.distill.arms):
        where = f"distill.arms.{index}"
        for name in arm.sources:
            source = parse_source(name, recipe.calibrate.teachers)
            if source is None:
                yield _unknown_source(f"{where}.sources", name, source_names(recipe.calibrate.teachers))
            elif source.teacher is None:
                yield from _gold_problems(where, name, arm.objectives)
        by_text = [record.name for record in _records(arm.objectives) if not record.works_on_policy]
        if arm.on_policy_share and by_text:
            what = f"{', '.join(by_text)} have no teacher signal on the student's own samples"
            yield Problem(f"{where}.on_policy_share", what, f"give {', '.join(by_text)} an arm with on_policy_share = 0")
        for key, factors in (("queries", arm.queries), ("steps", arm.steps)):
            if not factors or min(factors) <= 0:
                yield Problem(f"{where}.{key}", f"{factors} must be one or more multiples above 0", f"for example {key} = [1.0]")
        if arm.calibrations is not None and arm.calibrations > recipe.calibrate.calibrations:
            yield Problem(
                f"{where}.calibrations",
                f"asks for {arm.calibrations} calibrations where calibrate.calibrations makes {recipe.calibrate.calibrations}",
                "lower the one or raise the other",
            )


def _unknown_source(where: str, name: str, known: Sequence[str]) -> Problem:
    guess = nearest(name, known)
    return Problem(where, f"unknown source {name!r}", f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}")


def _gold_problems(where: str, name: str, objectives: Sequence[str]) -> Iterator[Problem]:
    logits = [record.name for record in _records(objectives) if record.needs_teacher_logits]
    if logits:
        what = f"{', '.join(logits)} on {name}: nobody's logits stand behind gold texts"
        yield Problem(f"{where}.objectives", what, f"give {name} an arm with {_names_of(lambda record: not record.needs_teacher_logits)}")


def _records(objectives: Iterable[str]) -> list[ObjectiveRecord]:
    """Of those that there are; the others are reported by themselves."""
    return [record for objective in objectives if (record := _try(partial(record_of, objective))[0])]


def _names_of(fits: Callable[[ObjectiveRecord], bool]) -> str:
    return ", ".join(name for name, record in OBJECTIVE_RECORDS.items() if fits(record))


# --- a task, its data and its models -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Checked:
    """A task as far as it could be read: None where it, or one of its models, could not."""

    recipe: Recipe
    config: TaskConfig
    task: Task | None
    models: dict[str, ModelFacts | None]  # by role

    def where(self, key: str) -> str:
        return f"tasks.{self.config.name}.{key}"


def _task_problems(recipe: Recipe, config: TaskConfig) -> Iterator[Problem]:
    task, problems = _try(lambda: build_task(config))
    yield from problems
    models: dict[str, ModelFacts | None] = {}
    for role, reference in config.models.items():
        models[role], problems = _try(lambda reference=reference: read_facts(reference))  # type: ignore[misc]
        yield from (Problem(f"tasks.{config.name}.{role} = {problem.where}", problem.what, problem.fix) for problem in problems)
    checked = _Checked(recipe, config, task, models)
    for role, facts in models.items():
        if facts is not None:
            needs_weights = role != "student" or recipe.distill.student_init == "checkpoint"
            where = f"{checked.where(role)} = {facts.reference}"
            yield from _model_problems(where, facts, needs_weights=needs_weights, has_template=recipe.chat_template is not None)
    yield from _pair_problems(checked)
    yield from _adapter_problems(checked)
    if task is not None:
        found, problems = _try(lambda: list(_grader_problems(checked, task)))
        yield from found or problems
        yield from _source_problems(checked, task)
        yield from _budget_problems(checked, task)
        yield from _length_problems(checked, task)


def _try(build: Callable[[], Any]) -> tuple[Any, tuple[Problem, ...]]:
    try:
        return build(), ()
    except UserError as error:
        return None, error.problems


def _model_problems(where: str, facts: ModelFacts, *, needs_weights: bool, has_template: bool) -> Iterator[Problem]:
    if not facts.is_causal:
        kind = ", ".join(facts.config.get("architectures") or []) or str(facts.config.get("model_type"))
        yield Problem(where, f"an encoder, or a model that does not continue texts ({kind})", "give a causal language model")
    if needs_weights and facts.is_local and not facts.has_safetensors:
        if facts.pickled_weights:
            yield Problem(
                where,
                f"its weights are pickled ({', '.join(facts.pickled_weights)}), which can run code when loaded",
                "convert them once, where you trust the file: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            )
        else:
            yield Problem(where, "the folder has no *.safetensors", "give a folder written by save_pretrained")
    if not facts.has_tokenizer:
        yield Problem(where, "the folder has no tokenizer", "save the model's tokenizer into it")
        return
    has_own, problems = _try(lambda: facts.has_chat_template)
    yield from problems
    if not (has_own or has_template or problems):
        yield Problem(where, "no chat template", NO_TEMPLATE_MEND)


def _pair_problems(checked: _Checked) -> Iterator[Problem]:
    teacher, student = checked.models["teacher"], checked.models["student"]
    if checked.recipe.calibrate.teachers:
        yield from _proxy_problems(checked)
    wanted = dict.fromkeys(objective for arm in checked.recipe.distill.arms for objective in arm.objectives)
    logits = [record.name for record in _records(wanted) if not record.crosses_tokenizers]
    if teacher and student and logits:
        difference, problems = _try(lambda: _vocabulary_difference(teacher, student) or _end_difference(checked.recipe, teacher, student))
        yield from problems
        if difference:
            fitting = _names_of(lambda record: record.crosses_tokenizers)
            yield Problem(
                f"{checked.where('student')} = {student.reference}",
                f"{', '.join(logits)} compare logits token by token, but {difference}",
                f"objectives that work for this pair: {fitting}; or use a student with the teacher's tokenizer",
            )


def _proxy_problems(checked: _Checked) -> Iterator[Problem]:
    """A proxy is neither the teacher nor another proxy."""
    seen = {facts.folder.resolve(): "teacher" for facts in [checked.models["teacher"]] if facts}
    for role, facts in checked.models.items():
        if not role.startswith("prox") or facts is None:
            continue
        other = seen.setdefault(facts.folder.resolve(), role)
        if other == "teacher":
            yield Problem(
                checked.where(role),
                "the proxy is the teacher, so that compatibility is 0 for every text",
                "give a smaller model, most naturally a student of another shape distilled from the plain teacher",
            )
        elif other != role:
            yield Problem(checked.where(role), f"the same model as {other}", "leave it out, or give another proxy")


def _vocabulary_difference(teacher: ModelFacts, student: ModelFacts) -> str | None:
    """How two vocabularies differ; None where they do not, or where the files do not say."""
    ours, theirs = teacher.vocabulary, student.vocabulary
    if ours is not None and theirs is not None and ours != theirs:
        if len(ours) != len(theirs):
            return f"the teacher has {len(ours)} tokens and the student {len(theirs)}"
        moved = [token for token in ours if ours[token] != theirs.get(token)]
        return f"{len(moved)} tokens have another id in the student, {moved[0]!r} among them"
    if teacher.output_width != student.output_width:
        return f"the teacher gives {teacher.output_width} logits and the student {student.output_width}"
    return None


def _end_difference(recipe: Recipe, teacher: ModelFacts, student: ModelFacts) -> str | None:
    """How the ends of their turns differ: a student that is taught another than its own never stops."""
    file = Path(recipe.chat_template or "").expanduser()
    template = file.read_text(encoding="utf-8") if file.is_file() else None  # `plain` ends a turn with no token of its own
    ends = teacher.end_of_turn(template), student.end_of_turn(template)
    if None in ends or ends[0] == ends[1]:
        return None
    return f"the teacher ends a turn with {ends[0]!r} and the student with {ends[1]!r}"


def _adapter_problems(checked: _Checked) -> Iterator[Problem]:
    """What only an adapter can do, and layers that one is to change and the teacher does not have, as far as its files tell."""
    calibrate, teacher = checked.recipe.calibrate, checked.models["teacher"]
    if teacher and teacher.is_part and calibrate.teachers and calibrate.lora is None:
        what = "its language model is part of a larger one, and the anchor's second copy would be loaded as the whole"
        fix = f"write it by itself (distillability cut {teacher.reference} --out FOLDER) and name that folder, or set calibrate.lora"
        yield Problem(f"{checked.where('teacher')} = {teacher.reference}", what, fix)
    lora = calibrate.lora
    known = _layer_names(teacher.layers_folder) if lora and teacher else []
    for name in lora.target_modules if lora and known else ():
        if name not in known:
            guess = nearest(name, known)
            fix = f"did you mean {guess!r}? " if guess else ""
            what = f"{checked.config.teacher} has no linear layers of the name {name!r}"
            yield Problem("calibrate.lora.target_modules", what, f"{fix}it has {', '.join(known)}")


def _layer_names(folder: Path) -> list[str]:
    """Last parts of the names of a model's matrices, embeddings and output head left out; empty where its files cannot be read."""
    names: dict[str, None] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as handle:
                tensors = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
            names |= {name.split(".")[-2]: None for name, held in tensors.items() if name.endswith(".weight") and len(held["shape"]) == 2}
        except (OSError, ValueError, LookupError, TypeError):
            return []
    return [name for name in names if not name.startswith("embed") and name not in _HEADS]


def _grader_problems(checked: _Checked, task: Task) -> Iterator[Problem]:
    """A grader that raises on the task's own answers, or refuses them."""
    prompts = [prompt for split in SPLITS for prompt in task.prompts(split, _GRADED_PROMPTS)]
    golds = [(prompt, gold) for prompt in prompts if (gold := task.gold_answer(prompt)) is not None]
    if not task.knows_gold:
        golds = golds[:1]  # enough to see that it judges at all, by a model that may be large
    refused = [prompt for prompt, gold in golds if not task.grade(prompt, gold).right]
    if refused and task.knows_gold:
        what = f"the grader refuses the task's own answer on {len(refused)} of {len(golds)} prompts, first {refused[0].id}"
        yield Problem(
            checked.where("grader"), what, 'choose another grader, fix the answers, or set answer_column = "none" if they are none'
        )


def _source_problems(checked: _Checked, task: Task) -> Iterator[Problem]:
    """Sources that this task cannot have."""
    prompt = next(iter(task.stream("query")))
    asked = {"distill.arms": [name for arm in checked.recipe.distill.arms for name in arm.sources]}
    if checked.recipe.diagnose is not None:
        asked["diagnose.sources"] = checked.recipe.diagnose.sources
    for where, name in dict.fromkeys((where, name) for where, names in asked.items() for name in names):
        source = parse_source(name, checked.recipe.calibrate.teachers)
        lacking = source and _lacking(task, source, prompt)
        if lacking:
            what = f"the task {checked.config.name} has no {lacking}"
            yield Problem(f"{where}: {name}", what, "leave this source out, or run the task apart")


def _lacking(task: Task, source: Source, prompt: Any) -> str | None:
    if source.gold == "steps" and task.gold_steps(prompt) is None:
        return "reference solutions"
    if source.prefill == "common" and task.prefill is None:
        return "common beginning of its answers with steps"
    if source.prefill == "oracle" and task.oracle_prefill(prompt) is None:
        return "easy mode to prefill"
    gold = task.gold_answer(prompt)
    if gold is None and (source.gold == "answers" or (source.few_shot and task.gold_steps(prompt) is None)):
        return "answers"
    return "answers that can be cut from a text" if source.cut and (gold is None or task.answer_only(gold) is None) else None


def _budget_problems(checked: _Checked, task: Task) -> Iterator[Problem]:
    factors = [factor for arm in checked.recipe.distill.arms for factor in arm.queries]
    needed = math.ceil(max(factors, default=0) * checked.config.queries)
    held = sum(1 for _ in islice(task.stream("query"), needed))
    if held < needed:
        yield Problem(
            checked.where("queries"),
            f"the arms buy up to {needed} traces, and the query split holds {held} distinct prompts",
            "lower tasks.queries or distill.arms.queries, or add prompts (40 % of them fall to the query split)",
        )


def _length_problems(checked: _Checked, task: Task) -> Iterator[Problem]:
    """Prompts that cannot fit whatever the chat template adds: the count is a lower bound."""
    prompts = sorted((prompt for split in SPLITS for prompt in task.prompts(split, 1000)), key=lambda prompt: len(prompt.text))
    room = checked.config.max_completion_length
    for role, facts in checked.models.items():
        if facts is None or facts.context is None:
            continue
        longest = _longest(facts, prompts[-_LONGEST_PROMPTS:])
        if longest is not None and longest[0] > facts.context - room:
            tokens, prompt = longest
            yield Problem(
                checked.where(role),
                f"a prompt of {tokens} tokens ({prompt.id}) and max_completion_length {room} exceed the context of {facts.context}",
                "shorten the prompts or max_completion_length, or use a model with a longer context",
            )


def _longest(facts: ModelFacts, prompts: Sequence[Prompt]) -> tuple[int, Prompt] | None:
    """The prompt of most tokens, and how many; None where the model has no `tokenizer.json` to count with."""
    from tokenizers import Tokenizer

    file = facts.tokenizer_folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the library raises this bare class; what is wrong with the file, loading it says better
        return None
    counted = [(len(tokenizer.encode(prompt.text, add_special_tokens=False)), prompt) for prompt in prompts]
    return max(counted, key=lambda pair: pair[0], default=None)
