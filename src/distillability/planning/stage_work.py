"""What each stage of a task computes, job by job, as the stages themselves do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from distillability.budgets import DECODED_AT_ONCE, SCORED_TEXTS, SCORER_TOKENS, UPDATE_PASSES
from distillability.config.objectives import record_of
from distillability.config.sources import parse_source
from distillability.planning.hardware import Hardware
from distillability.planning.task import PlannedTask
from distillability.planning.work import Work, backward, decode, optimiser_step, project
from distillability.runs.students import Student

__all__ = ["Line", "StageName", "elapsed", "lines_of"]

StageName = Literal["calibrate", "traces", "students", "evaluate"]
_Asked = Literal["from traces", "from recorded states", "asking the teacher"]


@dataclass(frozen=True)
class Line:
    """One kind of work in one stage.

    Attributes:
        job: what one job of it does, on one device.
        jobs: how many; dealt out over the devices, unless devices do each job `together`: every one the whole recipe's batch.
    """

    task: str
    stage: StageName
    part: str
    job: Work
    jobs: int
    dtype: str
    together: bool = False

    def total(self, devices: int) -> Work:
        """Of all jobs on all devices."""
        return self.job * (self.jobs * (devices if self.together else 1))

    def job_seconds(self, hardware: Hardware) -> float:
        """Of one job, or of its part in one."""
        return self.job.seconds(hardware, self.dtype)


def elapsed(lines: Sequence[Line], hardware: Hardware) -> dict[tuple[str, StageName], float]:
    """Seconds of each stage of each task from beginning to end, the longest jobs first."""
    found: dict[tuple[str, StageName], float] = {}
    for task, stage in dict.fromkeys((line.task, line.stage) for line in lines):
        of_stage = [line for line in lines if (line.task, line.stage) == (task, stage)]
        # The parts of a calibration follow one another in the same job; lines of other stages are jobs of their own.
        groups = [[line] for line in of_stage] if stage == "calibrate" else [of_stage]
        found[task, stage] = sum(_dealt(group, hardware) for group in groups)
    return found


def _dealt(lines: Sequence[Line], hardware: Hardware) -> float:
    """Until the last device is done with its share of the jobs."""
    devices = [0.0] * hardware.devices
    alone = [line.job_seconds(hardware) for line in lines if not line.together for _ in range(line.jobs)]
    for seconds in sorted(alone, reverse=True):
        devices[devices.index(min(devices))] += seconds
    return max(devices) + sum(line.job_seconds(hardware) * line.jobs for line in lines if line.together)


def lines_of(task: PlannedTask) -> list[Line]:
    """All work of a task, in the order in which it is done."""
    return [*_calibrate(task), *_traces(task), *_students(task), *_evaluate(task)]


def _line(task: PlannedTask, stage: StageName, part: str, job: Work, jobs: int, role: str, *, is_training: bool = False) -> Line:
    return Line(task.config.name, stage, part, job, jobs, task.dtype(role), together=is_training and task.hardware.is_accelerator)


def _score(task: PlannedTask, role: str, rows: float) -> Work:
    return task.forward(role, rows=rows, passes=max(1.0, rows * task.lengths(role).whole / SCORER_TOKENS))


def _decode(task: PlannedTask, role: str, prompts: float, samples: float = 1, batch: float = DECODED_AT_ONCE) -> Work:
    """`samples` completions of each prompt, `batch` in all at once; those of a prompt that are equal are decoded once."""
    lengths, differ = task.lengths(role), task.distinct(samples)
    return decode(
        task.shape(role),
        prompts=prompts,
        rows=prompts * differ,
        prompt=lengths.prompt,
        new=lengths.completion,
        hardware=task.hardware,
        dtype=task.decoding_dtype(role),
        batch=max(1.0, batch * differ / samples),
    )


def _calibrate(task: PlannedTask) -> Iterator[Line]:
    settings = task.recipe.calibrate
    teachers, repeated, steps = settings.teachers.values(), settings.calibrations, settings.max_steps
    if not teachers:
        return
    yield _line(task, "calibrate", "admission", _admission(task), 1, "teacher")
    jobs, rows = len(teachers) * repeated, settings.prompts_per_step * task.distinct(settings.num_generations)
    yield _line(task, "calibrate", "rollouts", _rollouts(task) * steps, jobs, "teacher", is_training=True)
    once = task.forward("teacher", rows=rows, passes=UPDATE_PASSES)
    if settings.anchor_coefficient:
        yield _line(task, "calibrate", "reference", once * steps, jobs, "teacher", is_training=True)
    steered = repeated * sum(teacher.reward == "compatibility" for teacher in teachers)
    if steered and settings.reference == "policy":
        yield _line(task, "calibrate", "policy as reference", _score(task, "teacher", rows) * steps, steered, "teacher", is_training=True)
    for role in task.proxies if steered else []:
        yield _line(task, "calibrate", role, _score(task, role, rows) * steps, steered, role, is_training=True)
    update = once * _forwards(task, "teacher") + backward(once, whole=settings.lora is None)
    update = update + optimiser_step(task.shape("teacher"), task.trained("teacher"))
    yield _line(task, "calibrate", "update", update * steps, jobs, "teacher", is_training=True)


def _forwards(task: PlannedTask, role: str) -> int:
    """Forward passes of an update: activations that are not kept are computed twice."""
    return 2 if task.settings(role).activation_checkpointing else 1


def _admission(task: PlannedTask) -> Work:
    settings = task.recipe.calibrate
    sampled = settings.scale_prompts * task.distinct(settings.num_generations)
    scored = (_score(task, role, sampled) for role in ("teacher", *task.proxies))
    return sum(scored, _decode(task, "teacher", settings.scale_prompts, settings.num_generations))


def _rollouts(task: PlannedTask) -> Work:
    """Of one step; the accuracy floor's measurements are spread over all."""
    settings = task.recipe.calibrate
    prompts, group = settings.prompts_per_step, settings.num_generations
    step = _decode(task, "teacher", prompts, group)
    if settings.accuracy_floor is None:
        return step
    return step + _decode(task, "teacher", settings.accuracy_floor.completions) * (1 / settings.accuracy_floor.eval_steps)


def _traces(task: PlannedTask) -> Iterator[Line]:
    readers: dict[tuple[str, int | None], list[Student]] = {}
    for student in task.students:
        readers.setdefault((student.source, student.calibration), []).append(student)
    for (name, _), students in readers.items():
        queries = max(student.queries for student in students)
        told = max((student.queries for student in students if record_of(student.objective).needs_teacher_logits), default=0)
        job = _bought(task, name, queries)
        if told and task.is_recorded(told):
            job = job + _score(task, "teacher", told)
        if job.tokens:
            yield _line(task, "traces", name, job, 1, "teacher")


def _bought(task: PlannedTask, name: str, queries: int) -> Work:
    """The texts of one source, none where nobody is asked."""
    source = parse_source(name, task.recipe.calibrate.teachers)
    if source is None or source.teacher is None:  # an unknown one has been refused where students were counted
        return Work()
    texts = _decode(task, "teacher", queries, source.draws, task.recipe.evaluate.batch_size)
    if source.select is None:
        return texts
    drawn = queries * task.distinct(source.draws)
    by = task.proxies if source.select == "likeliest" else ("teacher", *task.proxies)
    return sum((_score(task, role, drawn) for role in by), texts)


def _students(task: PlannedTask) -> Iterator[Line]:
    alike: Counter[tuple[_Asked, float, int]] = Counter(
        (_asked(task, student), student.on_policy_share, student.steps) for student in task.students
    )
    for (asked, share, steps), jobs in alike.items():
        part = f"{steps} steps, {asked}{f', {share:.0%} on their own texts' if share else ''}"
        yield _line(task, "students", part, _student_step(task, asked, share) * steps, jobs, "student", is_training=True)


def _asked(task: PlannedTask, student: Student) -> _Asked:
    if not record_of(student.objective).needs_teacher_logits:
        return "from traces"
    if not task.is_recorded(student.queries):
        return "asking the teacher"
    return "from recorded states" if task.record(student.queries)[0] == "states" else "from traces"


def _student_step(task: PlannedTask, asked: _Asked, on_policy_share: float) -> Work:
    settings = task.recipe.distill
    rows, micro_batches = settings.batch_size, settings.gradient_accumulation_steps
    once = task.forward("student", rows=rows)
    step = (once * _forwards(task, "student") + backward(once)) * micro_batches
    step = step + optimiser_step(task.shape("student"), task.trained("student"))
    on_traces = 1.0 - on_policy_share
    if asked == "from recorded states":
        positions = rows * task.lengths("teacher").completion
        logits = project(task.shape("teacher"), positions=positions, dtype=task.dtype("teacher"))
        step = step + logits * (on_traces * micro_batches)
    live = 1.0 if asked == "asking the teacher" else on_policy_share
    if live:
        step = step + task.forward("teacher", rows=rows) * (live * micro_batches)
    if on_policy_share:
        step = step + _decode(task, "student", rows) * (on_policy_share * micro_batches)
    return step


def _evaluate(task: PlannedTask) -> Iterator[Line]:
    settings, calibrate = task.recipe.evaluate, task.recipe.calibrate
    teachers = 1 + len(calibrate.teachers) * calibrate.calibrations
    job = _decode(task, "teacher", settings.teacher_prompts, batch=settings.batch_size)
    if settings.teacher_samples:
        texts = min(SCORED_TEXTS, settings.teacher_prompts)
        job = job + _decode(task, "teacher", settings.teacher_prompts, settings.teacher_samples, settings.batch_size)
        job = job + _score(task, "teacher", texts) * 2 + _score(task, "proxy", texts)
    yield _line(task, "evaluate", "teachers", job, teachers, "teacher")
    if task.students:
        answers = settings.student_prompts * (1 + settings.student_samples) + settings.validate_prompts
        untrained = len({student.seed for student in task.students})
        job = _decode(task, "student", answers, batch=settings.batch_size)
        yield _line(task, "evaluate", "students", job, len(task.students) + untrained, "student")
