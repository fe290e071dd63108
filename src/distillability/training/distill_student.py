"""Distillation of one student: transformers' Trainer around our objectives.

The prefix source is an axis of its own: a step learns from the teacher's traces, or, with probability `on_policy_share`, from
completions that the student samples for the same prompts (GKD's mixture). Only logits objectives can learn from the student's own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import align_special_tokens
from transformers.utils import logging as transformers_logging

from distillability.inference import complete_ids
from distillability.models.batch import right_padded
from distillability.models.head import has_plain_head, states_and_head
from distillability.models.load import LoadedModel
from distillability.objectives import Objective
from distillability.ops.align import IGNORE, next_token_positions
from distillability.ops.projection import affordable, projected_sum
from distillability.ops.reduce import global_mean
from distillability.ops.sharding import redirect_forward
from distillability.training.checkpoints import MetricsFile, last_checkpoint
from distillability.training.devices import on_one_device
from distillability.training.teacher_alignment import AlignedTrace, TeacherSignal, align_traces, aligned_share, at_places, signal_at
from distillability.training.teacher_signals import Example, RecordedSignals, encode_trace
from distillability.types import Trace

__all__ = ["StudentSettings", "distill_student"]

_SORTED = 4  # times the place of logits that sorting them takes


@dataclass(frozen=True)
class StudentSettings:
    """How one student is trained."""

    steps: int
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    warmup_steps: int
    on_policy_share: float
    max_completion_length: int
    save_steps: int
    seed: int
    activation_checkpointing: bool = False


class _Traces(Dataset[dict[str, Any]]):
    """Rows of a batch: a trace as the student reads it and as the teacher does, and what was recorded of it."""

    def __init__(self, examples: Sequence[Example], aligned: Sequence[AlignedTrace], signals: RecordedSignals | None):
        self.examples, self.aligned, self.signals = examples, aligned, signals

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {"example": self.examples[index], "aligned": self.aligned[index]}
        if self.signals is None:
            return row
        rows, places = self.signals.rows(index), self.aligned[index].places
        if places is None:
            return row | {"teacher": rows}
        signal, unaligned = at_places(rows, places)
        return row | {"teacher": signal, "unaligned": unaligned}


@dataclass(frozen=True)
class _Texts:
    """A batch's texts as both read them; wrapped, since whatever moves a batch visits all numbers of lists."""

    examples: list[Example]
    aligned: list[AlignedTrace]


def _collate(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, Any]:
    """input_ids, attention_mask, labels [B, T], right-padded; teacher [N, V or D] and unaligned [N] in the order of the valid positions."""
    examples: list[Example] = [row["example"] for row in rows]
    ids = pad_sequence([torch.tensor(example.ids) for example in examples], batch_first=True, padding_value=pad)
    column, prompt = torch.arange(ids.shape[1]), torch.tensor([[len(example.prompt)] for example in examples])
    there = column < prompt + torch.tensor([[len(example.completion)] for example in examples])
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": there.long(),
        "labels": ids.masked_fill(~there | (column < prompt), IGNORE),
        "texts": _Texts(examples, [row["aligned"] for row in rows]),
    }
    for name in ("teacher", "unaligned"):
        if name in rows[0]:
            batch[name] = torch.cat([row[name] for row in rows])
    return batch


class _StudentTrainer(Trainer):
    """Sums an objective over valid positions; the division by the global token count is `ops.reduce`'s."""

    objective: Objective
    teacher: LoadedModel | None
    student: LoadedModel
    settings: StudentSettings
    plain_head: dict[str, bool]  # of the student and the teacher
    recorded_head: torch.nn.Module  # makes logits of what was recorded
    # The loss below is divided by the token count of the whole accumulation window, so nobody may divide it again.
    loss_is_scaled_for_ga = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: torch.Tensor | int | None = None
    ) -> Any:
        rows, columns, targets = next_token_positions(inputs["labels"])
        student = self.accelerator.unwrap_model(model)
        n_tokens = len(targets) if num_items_in_batch is None else num_items_in_batch

        def mean() -> torch.Tensor:  # divided inside: a wrapper may round what comes out, and with it the gradient of what is done to it
            return global_mean(self._sum(student, inputs, rows, columns, targets), n_tokens, world_size=self.args.world_size)

        loss = redirect_forward(model, student, mean)
        return (loss, {}) if return_outputs else loss

    def _sum(self, student: Any, inputs: dict[str, Any], rows: torch.Tensor, columns: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective over all positions; no logits of the whole batch exist at any time."""
        where = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "rows": rows, "columns": columns}
        with self.accelerator.autocast():
            signal = self._teacher_signal(inputs) if self.objective.needs_teacher_logits else None
            states, head = states_and_head(student, plain_head=self.plain_head["student"], **where)
            chunk = None
            if signal is not None and self.objective.crosses_tokenizers:  # both vocabularies are sorted
                chunk = max(1, min(affordable(states, head), affordable(signal.states, signal.head)) // _SORTED)

            def loss(logits: torch.Tensor, part: slice) -> torch.Tensor:
                of_teacher = None if signal is None else signal.logits(part)
                return self.objective(student_logits=logits, teacher_logits=of_teacher, target_ids=targets[part])

            return projected_sum(states, head, loss, chunk=chunk)

    @torch.no_grad()
    def _teacher_signal(self, inputs: dict[str, Any]) -> TeacherSignal:
        """What was recorded, or what the live teacher says in its own template."""
        if "teacher" in inputs:
            return TeacherSignal(inputs["teacher"], self.recorded_head, inputs.get("unaligned"))
        if self.teacher is None:
            raise ValueError(f"{self.objective.name} needs recorded teacher signals or a live teacher")
        aligned: list[AlignedTrace] = inputs["texts"].aligned
        where, _ = right_padded([each.text for each in aligned], self.teacher.tokenizer, self.teacher.device)
        states, head = states_and_head(self.teacher.model, plain_head=self.plain_head["teacher"], **where)
        return signal_at(states, head, aligned)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Swap in the student's own completions before tokens are counted, so that the divisor counts what is learnt from."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        coin = random.Random(f"{self.settings.seed} {self.state.global_step}")
        if coin.random() < self.settings.on_policy_share:
            batches = [self._on_policy(batch, coin.randrange(2**31)) for batch in batches]
        counted = sum(len(next_token_positions(batch["labels"])[0]) for batch in batches)
        return batches, self.accelerator.gather(torch.tensor(counted, device=device)).sum()

    def _on_policy(self, batch: dict[str, Any], seed: int) -> dict[str, Any]:
        """The batch with the student's own completions: the ids that it sampled, not the ids that their text would encode to."""
        texts: _Texts = batch["texts"]
        prompts = [example.prompt for example in texts.examples]
        completions = complete_ids(self.student, prompts, decoding="sampled", max_new_tokens=self.settings.max_completion_length, seed=seed)
        rows = [
            {"example": Example(prompt, ids), "aligned": AlignedTrace(Example(each.text.prompt, ids))}
            for prompt, ids, each in zip(prompts, completions, texts.aligned, strict=True)
        ]
        return _collate(rows, self.student.tokenizer.pad_token_id)


class _Record(TrainerCallback):
    def __init__(self, metrics_file: MetricsFile, progress: Callable[[int, int], None]):
        self.metrics_file, self.progress = metrics_file, progress
        self.started = time.perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self.metrics_file.append({"step": state.global_step, "loss": logs["loss"], "grad_norm": float(logs["grad_norm"])})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % 50 == 0:
            self.progress(state.global_step, state.max_steps)


def distill_student(
    *,
    student: LoadedModel,
    objective: Objective,
    traces: Sequence[Trace],
    signals: RecordedSignals | None,
    teacher: LoadedModel | None,
    settings: StudentSettings,
    autocast_dtype: torch.dtype | None,
    folder: Path,
    recorded_by: PreTrainedTokenizerBase | None = None,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> dict[str, Any]:
    """Distil one student from `traces` and save it as `folder/model`; resumes from its own checkpoints.

    Args:
        traces: complete ones only (no truncated text is a target).
        signals: what the teacher signal, of exactly these traces; None where the objective needs nothing or `teacher` is live.
        teacher: asked at every step where nothing is recorded, and for the student's own completions. Of the student's vocabulary, unless
            the objective crosses tokenizers.
        recorded_by: the tokenizer of who signal `signals`, where the objective crosses tokenizers.

    Returns:
        steps, seconds, tokens of the traces seen (all visits counted); `aligned_share` where the teacher's tokens are others.
    """
    if any(trace.truncated for trace in traces) or not traces:
        raise ValueError("a student learns from complete traces, at least one")
    checkpoint = last_checkpoint(folder / "checkpoints")
    trainer = student_trainer(student, objective, traces, signals, teacher, settings, autocast_dtype, folder, recorded_by)
    record = _Record(MetricsFile(folder / "metrics.jsonl", keep_to_step=checkpoint.step if checkpoint else 0), progress)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(record)
    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    trainer.save_model(str(folder / "model"))
    student.model.eval()
    examples = trainer.train_dataset.examples
    mean_length = sum(len(example.completion) for example in examples) / len(examples)
    steps = min(trainer.state.global_step, settings.steps)  # resumed behind its last step, a trainer takes one more, at a rate of 0
    rows_seen = steps * settings.batch_size * settings.gradient_accumulation_steps * trainer.args.world_size
    return {
        "steps": steps,
        "seconds": time.perf_counter() - record.started,
        "tokens": round(mean_length * rows_seen),
        **aligned_share(trainer.train_dataset.aligned),
    }


def student_trainer(
    student: LoadedModel,
    objective: Objective,
    traces: Sequence[Trace],
    signals: RecordedSignals | None,
    teacher: LoadedModel | None,
    settings: StudentSettings,
    autocast_dtype: torch.dtype | None,
    folder: Path,
    recorded_by: PreTrainedTokenizerBase | None = None,
) -> _StudentTrainer:
    """The trainer behind `distill_student`, ready to train."""
    if settings.on_policy_share and (objective.crosses_tokenizers or not objective.needs_teacher_logits):
        raise ValueError(f"{objective.name} has no teacher signal on the student's own samples")
    examples = [encode_trace(student, trace) for trace in traces]
    models = {"student": student, "teacher": teacher}
    plain_head = {role: has_plain_head(loaded.model) for role, loaded in models.items() if loaded is not None}
    trainer = _StudentTrainer(
        model=_aligned(student).train(),
        args=on_one_device(_training_arguments(settings, student, autocast_dtype, folder)),
        train_dataset=_Traces(examples, align_traces(student, objective, traces, examples, signals, teacher, recorded_by), signals),
        data_collator=lambda rows: _collate(rows, student.tokenizer.pad_token_id),
        processing_class=student.tokenizer,
    )
    trainer.objective, trainer.teacher, trainer.student, trainer.settings = objective, teacher, student, settings
    trainer.plain_head = plain_head
    if signals is not None:
        trainer.recorded_head = signals.head().to(student.device)
    return trainer


def _aligned(student: LoadedModel) -> PreTrainedModel:
    """The model, its configuration naming the tokenizer's special tokens: a trainer sees to that too, and warns of it at every student."""
    signal = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        align_special_tokens(student.model, student.tokenizer)
    finally:
        transformers_logging.set_verbosity(signal)
    return student.model


def _training_arguments(
    settings: StudentSettings, student: LoadedModel, autocast_dtype: torch.dtype | None, folder: Path
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(settings.warmup_steps, settings.steps // 4),
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        seed=settings.seed,
        data_seed=settings.seed,
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=max(1, settings.steps // 20),
        report_to="none",
        disable_tqdm=True,
        activation_checkpointing=settings.activation_checkpointing,
        use_cpu=student.device.type == "cpu",
        bf16=autocast_dtype is torch.bfloat16,
        dataloader_pin_memory=student.device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
    )
