"""Post-hoc calibration of a teacher: GRPO with a composite reward.

A = z(task) + knob · C′ is computed for whole groups inside one reward function, and TRL is told not to rescale it
(`scale_rewards="none"`). TRL subtracts the group's mean, which is zero for every form of A, so that its advantage is ours.
At knob 0 this is stock GRPO with `scale_rewards="group"` and the KL anchor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from distillability.config.recipe import AccuracyFloor, Calibrate, Teacher
from distillability.errors import UserError
from distillability.files import new_folder
from distillability.inference import complete_ids
from distillability.inference.likelihood import Scorer
from distillability.models.chat import rendered_once
from distillability.models.fused import unsupported
from distillability.models.load import LoadedModel, load_model
from distillability.models.locate import adapted_model, locate
from distillability.tasks.base import Task
from distillability.training.calibration_trainer import CalibrationTrainer, StepRecord
from distillability.training.checkpoints import Checkpoint, MetricsFile, go_back, last_checkpoint, on_a_full_disk, save, whole_checkpoints
from distillability.training.devices import on_one_device
from distillability.training.floor import Floor, held_out_accuracy
from distillability.training.lean_grpo import frozen_reference
from distillability.training.lora import AdapterOffScorer, adapter_config, adapter_state
from distillability.training.reward import CompositeReward
from distillability.training.stops import CalibrationStopped, Stop
from distillability.types import Prompt

__all__ = ["Calibration", "calibrate_teacher", "calibration_trainer"]


@dataclass(frozen=True)
class Calibration:
    """One calibration to be done.

    Attributes:
        loaded: the plain teacher, loaded from disk (TRL loads the frozen reference again from where it came).
        proxies: one, or several whose C `settings.proxy_aggregate` makes one; none for a reward that needs none.
        prompts: of the calibrate split, at least one step's worth; seen once each where there are enough.
        scale: s_C of the plain teacher for this reward, in the reward's unit.
        folder: where metrics, checkpoints and the calibrated teacher go.
    """

    loaded: LoadedModel
    proxies: Sequence[LoadedModel]
    task: Task
    prompts: Sequence[Prompt]
    teacher: Teacher
    settings: Calibrate
    scale: float
    max_completion_length: int
    seed: int
    autocast_dtype: torch.dtype | None
    folder: Path


def calibrate_teacher(calibration: Calibration, progress: Callable[[int, int], None] = lambda step, total: None) -> dict[str, Any]:
    """Calibrate one teacher and save it as `folder/model`; resumes from its own checkpoints.

    Returns:
        steps done, the step whose weights were kept, seconds of training and tokens sampled (both since this process began), and why it
        stopped early (None where it did not).
    """
    settings, folder = calibration.settings, calibration.folder
    trainer = calibration_trainer(calibration)
    checkpoint = last_checkpoint(folder / "checkpoints")
    begun, writes = checkpoint.step if checkpoint else 0, trainer.accelerator.is_main_process
    trainer.metrics_file = MetricsFile(folder / "metrics.jsonl", begun, writes=writes)
    record = StepRecord(trainer, settings, progress)
    if settings.accuracy_floor is not None:
        trainer.floor = trainer.reward.floor = _floor(trainer, calibration, settings.accuracy_floor, begun)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(record)
    with on_a_full_disk(folder):
        stop = _train(trainer, record, checkpoint)
        kept = _keep(trainer, calibration.loaded, folder / "checkpoints", stop)
        save(trainer, folder / "model", merge=settings.lora is not None and settings.lora.save == "merged")
    seconds = time.perf_counter() - record.started
    tokens = sum(row["tokens"] for row in trainer.metrics_file.rows if row["step"] > begun)
    return {"steps": trainer.state.global_step, "kept_step": kept, "seconds": seconds, "tokens": tokens, "stopped": stop and stop.reason}


def _train(trainer: CalibrationTrainer, record: StepRecord, checkpoint: Checkpoint | None) -> Stop | None:
    """Train to the last step or until something stops it; returns what did.

    Raises:
        UserError: it broke before there was anything to keep.
    """
    try:
        if trainer.floor is not None:
            trainer.floor.begin()
        trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    except CalibrationStopped as stopped:
        step = trainer.state.global_step
        if not whole_checkpoints(Path(trainer.args.output_dir)):
            raise UserError.single("calibrate", str(stopped), "fix what it names, then go on with --resume") from stopped
        return Stop(str(stopped), bad_from=step + 1)
    return record.stop


def _keep(trainer: CalibrationTrainer, loaded: LoadedModel, checkpoints: Path, stop: Stop | None) -> int:
    """Go back to the last weights that nothing objects to; returns their step."""

    def may_keep(step: int) -> bool:
        return (stop is None or step < stop.bad_from) and (trainer.floor is None or trainer.floor.holds(step))

    now = int(trainer.state.global_step)
    if may_keep(now):
        return now
    return go_back(trainer, loaded, checkpoints, may_keep=may_keep, first_adapter=trainer.first_adapter)


def _floor(trainer: CalibrationTrainer, calibration: Calibration, settings: AccuracyFloor, begun: int) -> Floor:
    """The accuracy floor of a calibration that has done `begun` steps."""
    measure = held_out_accuracy(
        lambda: replace(calibration.loaded, model=trainer.accelerator.unwrap_model(trainer.model)),
        calibration.task,
        calibration.settings,
        completions=settings.completions,
        max_completion_length=calibration.max_completion_length,
        seed=calibration.seed,
        autocast_dtype=calibration.autocast_dtype,
    )
    file = MetricsFile(calibration.folder / "accuracy_floor.jsonl", begun, writes=trainer.accelerator.is_main_process)
    return Floor(settings, measure, file)


def _rollouts(loaded: LoadedModel, max_new_tokens: int, autocast_dtype: torch.dtype | None) -> Callable[..., dict[str, Any]]:
    """TRL's `rollout_func`: sampled at temperature 1 with the policy's weights of the moment."""

    def roll_out(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        policy = replace(loaded, model=trainer.accelerator.unwrap_model(trainer.model))
        encoded = rendered_once(loaded.tokenizer, [message["content"] for (message,) in prompts])
        ids = complete_ids(policy, encoded, decoding="sampled", max_new_tokens=max_new_tokens, autocast_dtype=autocast_dtype)
        return {"prompt_ids": encoded, "completion_ids": ids, "logprobs": None}

    return roll_out


def calibration_trainer(calibration: Calibration) -> CalibrationTrainer:
    """The trainer of `calibrate_teacher`, before its first step."""
    loaded, settings, prompts = calibration.loaded, calibration.settings, calibration.prompts
    length, dtype = calibration.max_completion_length, calibration.autocast_dtype
    _require_other_models(loaded, calibration.proxies)
    if not settings.lora:
        _as_ordinary_folder(loaded, calibration.folder / "checkpoints" / "original")
    reward = CompositeReward(
        task=calibration.task,
        settings=settings,
        teacher=calibration.teacher,
        scale=calibration.scale,
        policy_tokenizer=loaded.tokenizer,
        proxies=[Scorer(proxy.model, proxy.tokenizer, autocast_dtype=dtype) for proxy in calibration.proxies],
        reference=None,
        prompts={prompt.id: prompt for prompt in prompts},
    )
    config = _grpo_config(settings, loaded, length, calibration.seed, dtype, calibration.folder)
    # Too few prompts are repeated here: a second epoch draws its order from a generator that a resumed trainer has not moved on.
    needed = settings.prompts_per_step * settings.max_steps * config.world_size
    rows = [{"prompt": [{"role": "user", "content": prompt.text}], "prompt_id": prompt.id} for prompt in prompts]
    if len(rows) < needed:
        rows = (rows * -(-needed // len(rows)))[:needed]  # no more: one that resumes behind its last step would take another
    longest = max(map(len, rendered_once(loaded.tokenizer, [prompt.text for prompt in prompts]))) + length
    ours = not settings.use_vllm and unsupported(loaded.model, longest) is None  # TRL generates where our decoder cannot
    torch.manual_seed(calibration.seed)  # of an adapter's first weights
    trainer = CalibrationTrainer(
        model=loaded.model,
        reward_funcs=[reward],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        rollout_func=_rollouts(loaded, length, dtype) if ours else None,
        peft_config=adapter_config(settings.lora, loaded.model) if settings.lora else None,
    )
    trainer.reward, trainer._seen = reward, []
    if settings.lora:
        trainer.first_adapter = adapter_state(trainer.accelerator.unwrap_model(trainer.model))
    reward.known_reference = lambda: trainer.reference_sums
    if calibration.teacher.reward == "compatibility":
        reward.reference = _reference_scorer(trainer, loaded, settings.reference, dtype)
    return trainer


def _as_ordinary_folder(loaded: LoadedModel, path: Path) -> None:
    """TRL loads the frozen reference by the policy's name, and cannot where that is an adapter's folder: write the merged model out."""
    if adapted_model(Path(loaded.model.config._name_or_path)) is None:
        return
    if not path.is_dir():
        with new_folder(path, replace=False) as folder:
            loaded.model.save_pretrained(folder)
            loaded.tokenizer.save_pretrained(folder)
    loaded.model.config._name_or_path = loaded.model.name_or_path = str(path)


def _require_other_models(loaded: LoadedModel, proxies: Sequence[LoadedModel]) -> None:
    teacher = Path(locate(loaded.reference)).resolve()
    for proxy in proxies:
        if Path(locate(proxy.reference)).resolve() == teacher:
            raise UserError.single(
                f"proxy {proxy.reference}",
                "the proxy is the teacher, so that compatibility is 0 for every text",
                "give a smaller model, most naturally a student of another shape distilled from the plain teacher",
            )


def _grpo_config(
    settings: Calibrate, loaded: LoadedModel, max_completion_length: int, seed: int, autocast_dtype: torch.dtype | None, folder: Path
) -> GRPOConfig:
    rows = settings.prompts_per_step * settings.num_generations
    micro_batch = min(rows, settings.per_device_train_batch_size or rows)
    config = GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rows // micro_batch,
        num_generations=settings.num_generations,
        max_completion_length=max_completion_length,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        # Once every group agrees on a mode, gradients vanish and with them Adam's second moment; at TRL's 0.999 the next odd group then
        # moves the policy by several times the learning rate (seen: right answers 1.00 to .75 within three steps).
        adam_beta2=0.95,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=min(5, settings.max_steps // 4),
        beta=settings.anchor_coefficient,
        use_bias_correction_kl=settings.anchor_gradient == "reverse",
        scale_rewards="none",
        loss_type="dapo",  # normalised by the global number of tokens: no preference for short or long completions
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        seed=seed,
        data_seed=seed,
        save_steps=settings.save_steps,
        logging_steps=settings.max_steps + 1,
        report_to="none",
        disable_tqdm=True,
        use_vllm=settings.use_vllm,
        vllm_mode=settings.vllm_mode,
        use_cpu=loaded.device.type == "cpu",
        bf16=autocast_dtype is torch.bfloat16,
        activation_checkpointing=settings.activation_checkpointing,
        dataloader_pin_memory=loaded.device.type == "cuda",
        remove_unused_columns=False,
    )
    on_one_device(config)
    if config.world_size > 1 and micro_batch % settings.num_generations:
        raise UserError.single(
            f"calibrate.per_device_train_batch_size = {micro_batch}",
            f"several processes would split groups of {settings.num_generations} completions, whose rewards belong together",
            "use a multiple of calibrate.num_generations",
        )
    return config


def _reference_scorer(
    trainer: GRPOTrainer, loaded: LoadedModel, reference: Literal["original", "policy"], autocast_dtype: torch.dtype | None
) -> Scorer:
    """What C is measured against: π_θ, or π₀: the policy without its adapter, else the copy that TRL loaded for its KL term, else our own.

    The policy is forwarded once more over the distinct texts. The decoder's own log-probabilities would cost nothing, but they are of the
    ids that were drawn and not of the text, are rounded as its products are, and exist only where our decoder does.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model)  # not divided yet, and the same object when it is
    if reference == "policy":
        return Scorer(policy, loaded.tokenizer, autocast_dtype=autocast_dtype)
    if isinstance(policy, PeftModel):
        return AdapterOffScorer(policy, loaded.tokenizer, autocast_dtype=autocast_dtype)
    frozen = frozen_reference(trainer)
    model = load_model(loaded.reference, trust_remote_code=loaded.trust_remote_code).model if frozen is None else frozen
    return Scorer(model, loaded.tokenizer, autocast_dtype=autocast_dtype)
