"""What each stage of a task holds in memory on one device, part by part."""

from __future__ import annotations

from distillability.budgets import DECODED_AT_ONCE, SCORED_TEXTS, SCORER_TOKENS
from distillability.config.objectives import record_of
from distillability.planning.memory import Memory, inference_activations, logits_chunk, training_activations
from distillability.planning.task import PlannedTask

__all__ = ["memory_of"]

_PROCESS_BYTES = 0.7e9  # Python and its libraries, or a device's context
_COMPILED_BYTES = 0.4e9  # by oneDNN on a processor: code and scratch space for every shape of a half-precision product
_VLLM_SHARE = 0.3  # of a device's memory, TRL's default


def memory_of(task: PlannedTask) -> dict[str, Memory]:
    """By stage; weights are float32, as they are loaded."""
    found = {}
    if task.recipe.calibrate.teachers:
        found["calibrate"] = _calibrate(task)
    found["traces, evaluate"] = _sample(task)
    if task.students:
        found["students"] = _students(task)
    return found


def _calibrate(task: PlannedTask) -> Memory:
    settings, weights, share = task.recipe.calibrate, 4.0 * task.shape("teacher").n_weights, _share(task)
    rows = settings.prompts_per_step * settings.num_generations
    stays = {
        "process": _PROCESS_BYTES,
        "policy": weights / share,
        "optimiser state": 8 * task.trained("teacher") / share,
        "proxies": sum(4.0 * task.shape(role).n_weights for role in task.proxies),
    }
    stays |= _compiled(task)
    if settings.lora is None and settings.anchor_coefficient:
        stays["reference"] = weights / share
    differ = task.distinct(settings.num_generations) / settings.num_generations
    micro_batch = min(rows, settings.per_device_train_batch_size or rows)
    phases = {"scoring": _scoring(task, rows * differ), "update": _update(task, "teacher", micro_batch * differ)}
    if not settings.use_vllm:
        phases["rollouts"] = _decoding(task, min(rows, DECODED_AT_ONCE), differ)
    elif settings.vllm_mode == "colocate":
        stays["vLLM's share"] = _VLLM_SHARE * task.hardware.memory
    return Memory(stays, phases, kept=not task.hardware.is_accelerator)


def _sample(task: PlannedTask) -> Memory:
    """Buying traces and evaluating: one model at a time, at most a teacher."""
    rows = task.recipe.evaluate.batch_size
    stays = {"process": _PROCESS_BYTES, "teacher": 4.0 * task.shape("teacher").n_weights} | _compiled(task)
    phases = {"rollouts": _decoding(task, rows, 1.0), "scoring": _scoring(task, SCORED_TEXTS)}
    return Memory(stays, phases, kept=not task.hardware.is_accelerator)


def _students(task: PlannedTask) -> Memory:
    shape, share = task.shape("student"), _share(task)
    stays = {"process": _PROCESS_BYTES, "student": 4 * shape.n_weights / share, "optimiser state": 8 * shape.n_weights / share}
    told = [student for student in task.students if record_of(student.objective).needs_teacher_logits]
    recorded = max((student.queries for student in told if task.is_recorded(student.queries)), default=0)
    if recorded:
        stays["recorded signals"] = task.record(recorded)[1]
    if any(student.on_policy_share or not task.is_recorded(student.queries) for student in told):
        stays["teacher"] = 4.0 * task.shape("teacher").n_weights
    return Memory(stays, {"update": _update(task, "student", task.recipe.distill.batch_size)})


def _compiled(task: PlannedTask) -> dict[str, float]:
    half = task.dtype("teacher") == "bfloat16" and not task.hardware.is_accelerator
    return {"compiled products": _COMPILED_BYTES} if half else {}


def _share(task: PlannedTask) -> int:
    """Devices over which weights, gradients and optimiser state are divided."""
    return task.hardware.devices if task.assumptions.sharded else 1


def _update(task: PlannedTask, role: str, rows: float) -> dict[str, float]:
    shape, lengths, dtype, hardware = task.shape(role), task.lengths(role), task.dtype(role), task.hardware
    checkpointing = task.settings(role).activation_checkpointing
    activations = training_activations(
        shape, rows=rows, length=lengths.whole, dtype=dtype, fused_attention=hardware.is_accelerator, checkpointing=checkpointing
    )
    parts = {"gradients": 4 * task.trained(role) / _share(task), "activations": activations}
    if dtype == "bfloat16":  # copies that autocast keeps, of one layer where layers are gathered one by one
        one_by_one = checkpointing or task.assumptions.sharded
        parts["half-precision weights"] = 2 * shape.layer_matrices / (shape.num_hidden_layers if one_by_one else 1)
    most = 4 * 4 * rows * lengths.completion * shape.vocab_size
    return parts | {"logits chunk": min(most, logits_chunk(shape, accelerator=hardware.is_accelerator))}


def _scoring(task: PlannedTask, rows: float) -> dict[str, float]:
    shape, lengths, fused = task.shape("teacher"), task.lengths("teacher"), task.hardware.is_accelerator
    tokens = min(SCORER_TOKENS, rows * lengths.whole)
    return {
        "activations": inference_activations(shape, tokens=tokens, length=lengths.whole, fused_attention=fused),
        "logits chunk": logits_chunk(shape, accelerator=fused, scoring=True),
    }


def _decoding(task: PlannedTask, rows: float, differ: float) -> dict[str, float]:
    """Keys and values have room for every row from the start, but only those of different texts are ever touched."""
    shape, lengths = task.shape("teacher"), task.lengths("teacher")
    item = 2 if task.decoding_dtype("teacher") == "bfloat16" else 4
    copied = shape.layer_matrices + (shape.head if item == 2 else 0)
    longest = lengths.prompt + task.config.max_completion_length
    return {
        "decoder's copy": float(item * copied),
        "keys and values": item * shape.cache(1) * rows * differ * longest,
        "logits": 12.0 * rows * differ * shape.vocab_size,
    }
