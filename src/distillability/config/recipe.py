"""The recipe: everything a run depends on, strict and torch-free.

A field that is also a setting of TRL or transformers carries the name it has there.
"""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from distillability.config.objectives import ObjectiveName, ObjectiveSettings
from distillability.config.own_code import is_own_code
from distillability.config.presets import PRESETS, PresetName
from distillability.config.strict import Strict

__all__ = [
    "GRADER_NAMES",
    "Arm",
    "Calibrate",
    "DataTask",
    "Diagnose",
    "Distill",
    "Evaluate",
    "InstructionsTask",
    "KnowledgeTask",
    "MathsTask",
    "Recipe",
    "Sweep",
    "Task",
    "Teacher",
]

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
GRADER_NAMES = ("exact", "last_line", "contains_number", "choice", "math_verify", "reward_model")
SchedulerName = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"]


class _TaskBase(Strict):
    """What every task needs: its three models and the attacker's budget."""

    name: str = Field("", description="Name in tables and folders; the type's name where empty.")
    teacher: str = Field(description="Hub id, local folder, .gguf file, or lab:FAMILY/NAME.")
    proxy: str = Field(description="Stands in for the students during calibration. Any tokenizer.")
    proxies: list[str] = Field(
        default_factory=list, description="Further proxies beside it; calibrate.proxy_aggregate makes one C of theirs all."
    )
    student: str = Field(description="What is distilled. A logits objective needs the teacher's vocabulary.")
    queries: int = Field(gt=0, description="Q, the headline number of traces bought from a teacher.")
    steps: int = Field(gt=0, description="Optimiser steps of a student at the headline budget.")
    max_completion_length: int = Field(gt=1, description="Longest completion, in tokens of the model that writes it.")
    learning_rates: dict[ObjectiveName, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Student learning rate per objective, chosen on the validate split."
    )

    @property
    def all_proxies(self) -> list[str]:
        """`proxy` and whatever stands beside it."""
        return [self.proxy, *self.proxies]

    @property
    def models(self) -> dict[str, str]:
        """The causal language models by role: the key that names each."""
        further = {f"proxies.{index}": reference for index, reference in enumerate(self.proxies)}
        return {"teacher": self.teacher, "proxy": self.proxy, **further, "student": self.student}

    @model_validator(mode="after")
    def _name_defaults_to_type(self) -> _TaskBase:
        if not self.name:
            object.__setattr__(self, "name", getattr(self, "type"))  # noqa: B009 - `type` exists on every concrete task
        return self


class MathsTask(_TaskBase):
    """Chains of modular arithmetic with several ways to write the steps."""

    type: Literal["maths"] = "maths"
    operations: int = Field(4, ge=2, le=8, description="Operations in a chain.")


class KnowledgeTask(_TaskBase):
    """Chains of relations between chemical elements."""

    type: Literal["knowledge"] = "knowledge"
    hops: int = Field(4, ge=2, le=8, description="Relations in a chain.")


class InstructionsTask(_TaskBase):
    """Chains of operations on a letter, and a format for the answer."""

    type: Literal["instructions"] = "instructions"
    operations: int = Field(5, ge=2, le=8, description="Operations in a chain.")
    reward_model: str | None = Field(
        None, description="A sequence-classification model with one output that says what is right; the rules where null."
    )
    reward_threshold: float = Field(0.0, description="The score of the reward model that means right.")


class DataTask(_TaskBase):
    """Prompts and answers of your own: a file, a folder or a set of the hub."""

    type: Literal["data"] = "data"
    preset: PresetName | None = Field(None, description="One of the paper's tasks; the keys below start from its values.")
    path: str = Field(description="A .jsonl, .csv, .tsv or .parquet file, a folder that `datasets` can load, or a hub id.")
    subset: str | None = Field(None, description="Of a folder's or the hub's set: its configuration.")
    split: str | None = Field(None, description="Of a folder's or the hub's set, or several as `train+test`; prompts are split anew.")
    revision: str | None = Field(None, description="Of the hub's set: a commit, tag or branch.")
    prompt_column: str = "prompt"
    prompt_template: str | None = Field(
        None, description="Text with {column} fields in the place of one column; a column of choices becomes lettered lines."
    )
    answer_column: str | None = Field("answer", description='"none" where there are no answers: then the grader must know by itself.')
    grader: str = Field("exact", description=f"{', '.join(GRADER_NAMES)}, or `module:function` of your own.")
    reward_model: str | None = Field(
        None, validate_default=True, description="Of the grader of that name: a sequence-classification model with one output."
    )
    threshold: float | None = Field(
        None, validate_default=True, description="The score that means right, of a reward model or of a function that returns numbers."
    )
    chance: float = Field(0.0, ge=0, lt=1, description="What a well-formed guess scores.")

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        return {"name": preset, **PRESETS[preset], **values} if isinstance(preset, str) and preset in PRESETS else values

    @field_validator("prompt_template")
    @classmethod
    def _plain_fields(cls, template: str | None) -> str | None:
        """Columns by name: what looks inside them, converts or formats them is refused."""
        if template is None:
            return None
        try:
            fields = [field[1:] for field in Formatter().parse(template) if field[1] is not None]
        except ValueError as error:
            raise ValueError(f"not a template: {error}") from None
        if not fields:
            raise ValueError("has no {column} in it")
        for name, specification, conversion in fields:
            if not name or name.isdigit() or set(name) & set(".[]{}") or specification or conversion:
                shown = f"{name}{f'!{conversion}' if conversion else ''}{f':{specification}' if specification else ''}"
                raise ValueError(f"{{{shown}}} is not the plain name of a column")
        return template

    @field_validator("grader")
    @classmethod
    def _known_grader(cls, grader: str) -> str:
        if grader not in GRADER_NAMES and not is_own_code(grader):
            raise ValueError(f"{grader!r} is neither one of {', '.join(GRADER_NAMES)} nor module:function")
        return grader

    @field_validator("reward_model", "threshold")
    @classmethod
    def _a_reward_model_is_whole(cls, value: Any, info: ValidationInfo) -> Any:
        judged = info.data.get("grader") == "reward_model"
        if value is None and judged:
            raise ValueError('grader = "reward_model" needs it')
        if value is not None and info.field_name == "reward_model" and not judged:
            raise ValueError('only grader = "reward_model" asks it')
        return value


Task = Annotated[MathsTask | KnowledgeTask | InstructionsTask | DataTask, Field(discriminator="type")]


class Teacher(Strict):
    """One calibrated teacher."""

    knob: float = Field(strict=True, description="> 0 raises distillability, < 0 lowers it, 0 is GRPO on the task alone.")
    reward: Literal["compatibility", "length"] = Field("compatibility", description="`length` is the length-only control.")


class AccuracyFloor(Strict):
    """Held-out accuracy that a teacher keeps while it is calibrated: sampled, on the validate split, of answers that count as right.

    The nearer its lower bound comes from above, the less C counts; the checkpoint kept is the last whose lower bound is above the floor.
    """

    accuracy: float = Field(gt=0, lt=1, description="The floor, a share of the answers; below the plain teacher's.")
    margin: float = Field(
        0.02, gt=0, lt=1, description="Under the floor by this much, C counts half; by more, not at all until the floor is reached again."
    )
    eval_steps: int = Field(10, ge=1, description="A measurement, and a checkpoint, every so many steps and after the last.")
    completions: int = Field(512, ge=512, description="Completions of a measurement, one a prompt where there are as many.")
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Of the one-sided lower bound.")
    patience: int = Field(3, ge=1, description="Measurements in a row under the floor that stop the calibration.")


class Stops(Strict):
    """When a calibration ends before its last step; the anchor's budget ends it too. What is kept is a checkpoint from before."""

    entropy_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Stop once the entropy a token is under this share of the first step's. Never by default: "
        "a teacher that settles on one of its ways of answering loses most of its entropy and nothing else.",
    )
    length_factor: float | None = Field(4.0, gt=1, description="Stop once completions are this many times as long as in the first step.")


class Lora(Strict):
    """Train a low-rank adapter in place of all weights; names as in peft."""

    r: int = Field(16, ge=1, description="Rank.")
    lora_alpha: int = Field(32, ge=1, description="The adapter counts lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list, description="Names of linear layers; all but the output head where empty.")
    save: Literal["merged", "adapter"] = Field("merged", description="An ordinary model, or the adapter alone, which needs the original.")


class Calibrate(Strict):
    """Reinforcement fine-tuning of the teacher: A = z(task) + knob · C'."""

    teachers: dict[str, Teacher] = Field(default_factory=lambda: {"distillable": Teacher(knob=1.0), "undistillable": Teacher(knob=-1.0)})
    calibrations: int = Field(1, ge=1, description="Independent calibrations of each teacher.")
    advantage: Literal["fixed_scale", "z_sum"] = Field("fixed_scale", description="`z_sum` is the paper's form.")
    knob_schedule: Literal["constant", "linear"] = Field(
        "constant", description="`linear`: the knob grows from 0 over the first share of the steps, `knob_warmup`."
    )
    knob_warmup: float = Field(0.25, gt=0, le=1, description="Share of the steps over which a linear knob grows.")
    reference: Literal["original", "policy"] = Field(
        "original", description="π_ref of C: the original teacher, or the policy as it is when the completions are drawn."
    )
    proxy_aggregate: Literal["mean", "worst"] = Field(
        "mean", description="C of several proxies: their mean, or the one that gains least in the knob's direction."
    )
    normaliser: Literal["none", "bytes", "characters", "tokens"] = "bytes"
    clip: float | None = Field(2.0, gt=0)
    gate: Literal["correct", "none"] = "correct"
    require: Literal["steps", "none"] = Field(
        "steps", description="`steps`: right also demands right visible steps, where the task checks them."
    )
    anchor_coefficient: float = Field(0.05, ge=0, description="Weight of the per-token KL anchor (TRL's `beta`).")
    anchor_gradient: Literal["reverse", "forward"] = Field(
        "reverse", description="K3 with TRL's importance ratio (next-token KL(policy‖original)), or the classic form."
    )
    anchor_budget: float | None = Field(3.0, gt=0, description="Stop when the anchor exceeds this many nats a sequence.")
    accuracy_floor: AccuracyFloor | None = Field(None, description="Held-out accuracy to keep; none by default.")
    stops: Stops = Stops()
    prompts_per_step: int = Field(32, ge=1)
    num_generations: int = Field(8, ge=2, description="Completions per prompt, the GRPO group.")
    per_device_train_batch_size: int | None = Field(None, ge=1, description="Completions per micro-batch; a whole step where null.")
    max_steps: int = Field(60, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: SchedulerName = Field("constant_with_warmup", description="After a warm-up of 5 steps, a quarter of a short run.")
    lora: Lora | None = Field(None, description="An adapter in place of all weights; none by default.")
    activation_checkpointing: bool = Field(False, description="Compute activations again in the backward pass: less memory, more time.")
    save_steps: int = Field(10, ge=1, description="A checkpoint every so many steps; an overspent anchor goes back to one.")
    use_vllm: bool = Field(False, description="Completions by vLLM, through TRL; else by our decoder where it knows the architecture.")
    vllm_mode: Literal["colocate", "server"] = Field("colocate", description="vLLM inside the training process, or `trl vllm-serve`.")
    scale_prompts: int = Field(64, ge=2, description="Prompts of the plain teacher on which s_C and proxy admission are measured.")
    force: bool = Field(False, description="Calibrate with a proxy that fails admission; recorded.")


class Arm(Strict):
    """A block of students: every source × objective × seed × queries × steps."""

    sources: list[str] = Field(min_length=1)
    objectives: list[ObjectiveName] = Field(default=["seqkd"], min_length=1)
    seeds: int = Field(1, ge=1)
    queries: list[float] = Field(default_factory=lambda: [1.0], description="Multiples of the task's Q.")
    steps: list[float] = Field(default_factory=lambda: [1.0], description="Multiples of the task's student steps.")
    on_policy_share: float = Field(0.0, ge=0, le=1, description="Share of steps on the student's own completions.")
    calibrations: int | None = Field(None, ge=1, description="How many of the calibrations to learn from; all where null.")


class Distill(ObjectiveSettings):
    """Students."""

    arms: list[Arm] = Field(default_factory=lambda: [Arm(sources=["plain", "distillable", "undistillable"])])
    batch_size: int = Field(48, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(3e-3, gt=0, description="Where the task names none for the objective.")
    warmup_steps: int = Field(50, ge=0)
    activation_checkpointing: bool = Field(False, description="Compute activations again in the backward pass: less memory, more time.")
    student_init: Literal["checkpoint", "random"] = Field(
        "checkpoint", description="`random`: the student folder gives architecture and tokenizer, the seed its first weights."
    )
    few_shot: int = Field(2, ge=1, description="Demonstrations for the few-shot sources.")
    save_steps: int = Field(500, ge=1)


class Evaluate(Strict):
    """How much is measured."""

    student_prompts: int = Field(1000, ge=1)
    validate_prompts: int = Field(500, ge=1, description="On which attackers and free alternatives are chosen.")
    student_samples: int = Field(1, ge=0)
    teacher_prompts: int = Field(4000, ge=1)
    teacher_samples: int = Field(4, ge=0)
    batch_size: int = Field(500, ge=1)
    resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _teachers_cover_students(self) -> Evaluate:
        """Students are compared with the plain teacher on the same prompts and decodings."""
        if self.teacher_prompts < self.student_prompts:
            raise ValueError(f"teacher_prompts ({self.teacher_prompts}) must be at least student_prompts ({self.student_prompts})")
        if self.student_samples and not self.teacher_samples:
            raise ValueError("student_samples needs teacher_samples of at least 1 to be compared with")
        return self


class Diagnose(Strict):
    """How much a diagnosis looks at; `distillability diagnose` needs no such section, a run diagnoses where there is one."""

    prompts: int = Field(200, ge=2, description="Prompts of the validate split: a text of the teacher and one of the student for each.")
    weight_prompts: int = Field(32, ge=1, description="Prompts whose sequence weights are measured.")
    weight_samples: int = Field(64, ge=1, description="Texts of the teacher for each of these.")
    temperature: float = Field(1.5, gt=0, description="At which the teacher is made to err, for wrong texts beside right ones.")
    probe_steps: int = Field(
        50, ge=0, le=50, description="Student steps before the traps are measured; 0 takes the student as it is. Distilled ones need none."
    )
    probe_traces: int = Field(480, ge=1, description="Texts of the teacher that the probe learns from.")
    sources: list[str] = Field(
        default_factory=list,
        description="Further sources, named as in arms, that a forecast is made for; texts are drawn where none were bought.",
    )
    seeds: int = Field(1, ge=0, description="Distilled students diagnosed of each source and objective, at the headline budget.")


class Sweep(Strict):
    """What `distillability sweep` makes of a recipe, in the place of its teachers and arms; the other verbs do not read it."""

    knobs: list[Annotated[float, Field(strict=True)]] = Field(
        default=[-1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0], min_length=2, description="A teacher each; the dose calls for values spaced in log."
    )
    objectives: list[ObjectiveName] = Field(default=["seqkd"], min_length=1, description="Students of every teacher, the plain one too.")
    ends_objectives: list[ObjectiveName] = Field(
        default=[], description="Further objectives, for students of the smallest and the largest knob and of the plain teacher."
    )
    seeds: int = Field(3, ge=1, description="Students of each teacher by each objective.")

    @field_validator("knobs")
    @classmethod
    def _each_once(cls, knobs: list[float]) -> list[float]:
        """A knob's six leading digits name its teacher."""
        names = [f"{knob + 0.0:g}" for knob in knobs]
        twice = sorted({name for name in names if names.count(name) > 1}, key=float)
        if twice:
            raise ValueError(f"each value once, but {', '.join(twice)} is there twice or more")
        return [knob + 0.0 for knob in knobs]  # there is one zero


class Recipe(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = 0
    workers: int = Field(1, ge=1, description="Processes that share the jobs of a stage; each takes an equal share of the cores.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of autocast; `auto` measures both on the teacher and on the student and keeps the faster for each."
    )
    chat_template: str | None = Field(
        None, description='For models that have none: "plain" (Question: … Answer: …), or a Jinja file. Such models are refused where null.'
    )
    chat_template_kwargs: dict[Identifier, bool | int | float | str] = Field(
        {}, description="Variables of the chat templates, as `{enable_thinking = false}`; saved models keep them."
    )
    trust_remote_code: bool = False
    tasks: list[Task] = Field(min_length=1)
    only: list[str] = Field(default=[], description="Names of the tasks to run; all of them where empty.")
    calibrate: Calibrate = Calibrate()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    diagnose: Diagnose | None = Field(None, description="A run diagnoses its teachers and students where this section is there.")
    sweep: Sweep = Sweep()

    @property
    def loading(self) -> dict[str, Any]:
        """What `models.load` is told beside a model's name."""
        return {
            "chat_template": self.chat_template,
            "chat_template_kwargs": self.chat_template_kwargs,
            "trust_remote_code": self.trust_remote_code,
        }

    @model_validator(mode="after")
    def _tasks_are_chosen_by_name(self) -> Recipe:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"task names must differ, got {names}", "give each its own name")
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ValueError(f"only: there is no task {', '.join(unknown)}", f"the tasks are: {', '.join(names)}")
        if self.only:
            object.__setattr__(self, "tasks", [task for task in self.tasks if task.name in self.only])
        return self
