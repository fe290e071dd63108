"""A student does not depend on how its batches are cut, on whether the teacher was recorded, or on having been killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig, TrainingArguments

import reference
from distillability.errors import UserError
from distillability.files import read_jsonl
from distillability.models.load import LoadedModel, load_model, load_tokenizer
from distillability.objectives import OBJECTIVES
from distillability.ops import projection
from distillability.ops.projection import projected_sum
from distillability.tasks import Maths
from distillability.training import distill_student as module
from distillability.training import teacher_signals as signals_module
from distillability.training.devices import on_one_device
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.training.teacher_signals import RecordedSignals, encode_trace, record_signals
from distillability.types import Trace
from processes import run_in_processes

TASK = Maths()
PROMPTS = TASK.prompts("query", 32)
# Uneven lengths, so that a mean of means would show.
TRACES = [
    Trace(prompt.id, prompt.text, TASK.render(prompt, "remark_easy") if index % 3 else TASK.gold_answer(prompt))
    for index, prompt in enumerate(PROMPTS)
]


def _settings(**changes: Any) -> StudentSettings:
    common: dict[str, Any] = {
        "steps": 4,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "on_policy_share": 0.0,
        "max_completion_length": 20,
        "save_steps": 2,
        "seed": 5,
    }
    return StudentSettings(**common | changes)


def _record(teacher: LoadedModel, traces: list[Trace], **options: Any) -> RecordedSignals:
    signals = record_signals(teacher, traces, **options)
    assert signals is not None
    return signals


def _distil(
    tiny: dict[str, Path],
    folder: Path,
    objective: str,
    settings: StudentSettings,
    recorded: bool = True,
    traces: list[Trace] = TRACES,
    autocast_dtype: torch.dtype | None = None,
) -> list[dict[str, Any]]:
    teacher = load_model(tiny["teacher"])
    needed = OBJECTIVES[objective].needs_teacher_logits
    distill_student(
        student=load_model(tiny["student"]),
        objective=OBJECTIVES[objective],
        traces=traces,
        signals=_record(teacher, traces) if needed and recorded else None,
        teacher=teacher if needed and (not recorded or settings.on_policy_share) else None,
        settings=settings,
        autocast_dtype=autocast_dtype,
        folder=folder,
        recorded_by=teacher.tokenizer if OBJECTIVES[objective].crosses_tokenizers else None,
    )
    return read_jsonl(folder / "metrics.jsonl")


def _weights(folder: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in load_model(folder / "model").model.parameters()])


@pytest.fixture(scope="module")
def strangers(tiny: dict[str, Path]) -> dict[str, Path]:
    """A teacher of characters and a student of byte pairs."""
    return {"teacher": tiny["teacher"], "student": tiny["proxy"]}


@pytest.mark.parametrize("objective", ["seqkd", "jsd", "uld"])  # of all others: tests/invariant/test_reduction.py
def test_accumulation_changes_neither_loss_nor_gradient(
    request: pytest.FixtureRequest, tiny: dict[str, Path], tmp_path: Path, objective: str
) -> None:
    runs = {}
    tiny = request.getfixturevalue("strangers") if objective == "uld" else tiny
    for batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        settings = _settings(batch_size=batch, gradient_accumulation_steps=accumulation)
        runs[batch] = _distil(tiny, tmp_path / str(batch), objective, settings)
    for batch in (4, 1):
        for ours, whole in zip(runs[batch], runs[8], strict=True):
            assert ours["loss"] == pytest.approx(whole["loss"], rel=2e-4, abs=1e-6)
            assert ours["grad_norm"] == pytest.approx(whole["grad_norm"], rel=2e-3)
        assert torch.allclose(_weights(tmp_path / str(batch)), _weights(tmp_path / "8"), atol=3e-4)


def _naive(student: Any, teacher: Any, objective: str) -> tuple[float, float]:
    """Loss and gradient norm of all traces at once, from the models' own logits."""
    loaded, tokens, total = LoadedModel(student, load_tokenizer(teacher), ""), 0, torch.tensor(0.0)
    asked = load_model(teacher)
    for trace in TRACES:
        example = encode_trace(loaded, trace)
        ids, where = torch.tensor([example.ids]), slice(len(example.prompt) - 1, len(example.ids) - 1)
        with torch.no_grad():
            of_teacher = asked.model(ids).logits[0, where]
        output = OBJECTIVES[objective](
            student_logits=student(ids).logits[0, where], teacher_logits=of_teacher, target_ids=torch.tensor(example.completion)
        )
        total, tokens = total + output, tokens + len(example.completion)
    (total / tokens).backward()
    norms = [parameter.grad.norm() for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad()
    return total.item() / tokens, float(torch.stack(norms).norm())


def _student(kind: str, teacher: Path) -> Any:
    """Students whose head is not simply a linear layer of its own."""
    tokenizer = load_tokenizer(teacher)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape |= {"eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.3, "attn_implementation": "eager"}
    configs = {
        "tied": lambda: LlamaConfig(**shape, tie_word_embeddings=True),
        "capped": lambda: Gemma2Config(**shape, head_dim=8, final_logit_softcapping=1.0),
        "scaled": lambda: CohereConfig(**shape, logit_scale=0.3),
        "adapted": lambda: LlamaConfig(**shape),
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[kind]())
    if kind == "adapted":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
        for name, parameter in model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("kind", ["tied", "capped", "scaled", "adapted"])
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_a_step_is_the_plain_loss_whatever_the_head(tiny: dict[str, Path], tmp_path: Path, kind: str) -> None:
    student = _student(kind, tiny["teacher"])
    loss, norm = _naive(student, tiny["teacher"], "reverse_kl")
    loaded = LoadedModel(student, load_tokenizer(tiny["teacher"]), kind)
    distill_student(
        student=loaded,
        objective=OBJECTIVES["reverse_kl"],
        traces=TRACES,
        signals=None,
        teacher=load_model(tiny["teacher"]),
        settings=_settings(steps=1, batch_size=8, gradient_accumulation_steps=4),
        autocast_dtype=None,
        folder=tmp_path,
    )
    (step,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert step["loss"] == pytest.approx(loss, rel=1e-4)
    assert step["grad_norm"] == pytest.approx(norm, rel=1e-3)


@pytest.fixture(scope="module")
def wide(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny pair with so many tokens that states take less place than log-probabilities."""
    folders = {}
    for role in ("teacher", "student"):
        loaded, folders[role] = load_model(tiny[role]), tmp_path_factory.mktemp(role)
        torch.manual_seed(7)
        loaded.model.resize_token_embeddings(900, mean_resizing=False)
        loaded.model.save_pretrained(folders[role])
        loaded.tokenizer.save_pretrained(folders[role])
    return folders


@pytest.mark.parametrize("vocabulary", ["tiny", "wide"])
def test_recorded_signals_are_the_live_teacher(request: pytest.FixtureRequest, tmp_path: Path, vocabulary: str) -> None:
    models = request.getfixturevalue(vocabulary)
    recorded = _distil(models, tmp_path / "recorded", "forward_kl", _settings())
    live = _distil(models, tmp_path / "live", "forward_kl", _settings(), recorded=False)
    for a, b in zip(recorded, live, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=3e-3)


@torch.no_grad()
def _uld(student: Path, teacher: Path) -> tuple[float, float]:
    """Mean loss of all traces, from both models' own logits and the characters that their tokens spell; where the teacher spoke."""
    total, n_tokens, n_spoken = 0.0, 0, 0
    for trace in TRACES:
        said = []
        for loaded in map(load_model, (student, teacher)):
            example = encode_trace(loaded, trace)
            logits = loaded.model(torch.tensor([example.ids])).logits[0, len(example.prompt) - 1 : -1].double().tolist()
            starts = [len(loaded.tokenizer.decode(example.completion[:place])) for place in range(len(example.completion))]
            said.append((example.completion, dict(zip(starts, logits, strict=True))))
        (completion, of_student), (_, of_teacher) = said
        for (start, logits), target in zip(of_student.items(), completion, strict=True):
            total += reference.cross_entropy(logits, target)
            if start in of_teacher:
                total += 1.5 * reference.sorted_distance(of_teacher[start], logits)
                n_spoken += 1
        n_tokens += len(completion)
    return total / n_tokens, n_spoken / n_tokens


@pytest.mark.parametrize("smaller", ["teacher", "student"])
def test_a_teacher_of_another_tokenizer_speaks_where_tokens_of_both_begin(strangers: dict[str, Path], tmp_path: Path, smaller: str) -> None:
    """Recorded or live, whoever has the smaller tokens."""
    models = strangers if smaller == "teacher" else {"teacher": strangers["student"], "student": strangers["teacher"]}
    expected, spoken = _uld(models["student"], models["teacher"])
    assert spoken == 1.0 if smaller == "teacher" else 0.3 < spoken < 0.9  # a character begins wherever a byte pair does
    found = {}
    for name in ("recorded", "live"):
        settings = _settings(batch_size=len(TRACES))
        found[name] = _distil(models, tmp_path / name, "uld", settings, recorded=name == "recorded")
        assert found[name][0]["loss"] == pytest.approx(expected, rel=1e-3)
    for a, b in zip(found["recorded"], found["live"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)  # halves of log-probabilities can change which rank is above


def test_who_spells_the_texts_otherwise_or_was_another_when_recorded_is_refused(strangers: dict[str, Path], tmp_path: Path) -> None:
    teacher, student = load_model(strangers["teacher"]), load_model(strangers["student"])
    common: dict[str, Any] = {"objective": OBJECTIVES["uld"], "settings": _settings(), "autocast_dtype": None, "folder": tmp_path}
    signals = _record(teacher, TRACES)
    with pytest.raises(ValueError, match="another length than its text"):
        distill_student(student=student, traces=TRACES, signals=signals, teacher=None, recorded_by=student.tokenizer, **common)
    foreign = [replace(trace, text="?" + trace.text) for trace in TRACES]  # a character that neither knows
    with pytest.raises(UserError, match=r"align on only 0 of 32 texts"):
        distill_student(student=student, traces=foreign, signals=None, teacher=teacher, **common)
    with pytest.raises(ValueError, match="no teacher signal"):
        distill_student(
            student=student, traces=TRACES, signals=signals, teacher=teacher, **common | {"settings": _settings(on_policy_share=0.5)}
        )


def test_a_live_teacher_is_asked_in_its_own_template_as_a_recorded_one_is(tiny: dict[str, Path], tmp_path: Path) -> None:
    student = load_model(tiny["student"])
    student.tokenizer.chat_template = student.tokenizer.chat_template.replace("<user>", "<user>so:")
    student.model.save_pretrained(tmp_path / "student")
    student.tokenizer.save_pretrained(tmp_path / "student")
    models = tiny | {"student": tmp_path / "student"}
    losses = [
        [row["loss"] for row in _distil(models, tmp_path / name, "forward_kl", _settings(), recorded=name == "recorded")]
        for name in ("recorded", "live")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    alike = [row["loss"] for row in _distil(tiny, tmp_path / "alike", "forward_kl", _settings())]
    assert losses[0] != pytest.approx(alike, rel=1e-3)


def test_one_process_trains_on_one_device(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=3)
    assert arguments.n_gpu <= 1
    arguments._n_gpu = 4
    assert on_one_device(arguments).train_batch_size == 3


@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
def test_states_are_recorded_where_they_are_smaller(wide: dict[str, Path], tmp_path: Path, autocast_dtype: torch.dtype | None) -> None:
    """With their head they make, after the disk and in any process, the logits of the teacher's own forward pass."""
    teacher = load_model(wide["teacher"])
    width = teacher.model.config.hidden_size
    _record(teacher, TRACES, batch_size=9, autocast_dtype=autocast_dtype).save(tmp_path / "signals.safetensors")
    signals = RecordedSignals.load(tmp_path / "signals.safetensors")
    assert signals.values.shape[1] == width
    assert signals.values.dtype == (autocast_dtype or torch.float32)
    for index, trace in enumerate(TRACES):
        example = encode_trace(teacher, trace)
        with torch.inference_mode(), torch.autocast("cpu", autocast_dtype, enabled=autocast_dtype is not None):
            logits = teacher.model(input_ids=torch.tensor([example.ids])).logits[0, len(example.prompt) - 1 : -1]
        found = signals.head()(signals.rows(index))
        error = (found.double().log_softmax(-1) - logits.double().log_softmax(-1)).abs()
        assert error.max() < (1e-4 if autocast_dtype is None else 0.5)  # two half-precision passes differ, not by much
        assert error.mean() < (1e-5 if autocast_dtype is None else 2e-2)


def test_nothing_is_recorded_that_memory_cannot_keep(wide: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_model(wide["teacher"])
    signals = _record(teacher, TRACES)
    assert signals.weight is not None
    n_bytes = signals.values.nbytes + signals.weight.nbytes
    monkeypatch.setattr(signals_module, "LARGEST_RECORD_BYTES", n_bytes)
    assert record_signals(teacher, TRACES) is not None
    monkeypatch.setattr(signals_module, "LARGEST_RECORD_BYTES", n_bytes - 1)
    assert record_signals(teacher, TRACES) is None


def test_a_bias_of_the_head_is_recorded(wide: dict[str, Path], tmp_path: Path) -> None:
    teacher = load_model(wide["teacher"])
    head = torch.nn.Linear(teacher.model.config.hidden_size, 900)
    teacher.model.set_output_embeddings(head)
    _record(teacher, TRACES).save(tmp_path / "signals.safetensors")
    again = RecordedSignals.load(tmp_path / "signals.safetensors").head()
    assert isinstance(again, torch.nn.Linear)
    assert torch.equal(again.bias, head.bias)


def test_autocast_reaches_the_backbone_and_changes_little(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def projected(hidden: torch.Tensor, head: torch.nn.Module, loss: Any, chunk: int | None) -> torch.Tensor:
        seen.append(head(hidden).dtype)
        return projected_sum(hidden, head, loss, chunk=chunk)

    monkeypatch.setattr(module, "projected_sum", projected)
    (exact,) = _distil(tiny, tmp_path / "exact", "jsd", _settings(steps=1), recorded=False)
    (rough,) = _distil(tiny, tmp_path / "rough", "jsd", _settings(steps=1), recorded=False, autocast_dtype=torch.bfloat16)
    assert seen == [torch.float32, torch.bfloat16]
    assert rough["loss"] != exact["loss"]
    assert rough["loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert rough["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.05)


def test_recorded_signals_survive_the_disk_and_a_smaller_budget(tiny: dict[str, Path], tmp_path: Path) -> None:
    teacher = load_model(tiny["teacher"])
    signals = _record(teacher, TRACES, batch_size=5)
    signals.save(tmp_path / "signals.safetensors")
    again = RecordedSignals.load(tmp_path / "signals.safetensors").first(7)
    fewer = _record(teacher, TRACES[:7], batch_size=3)
    assert torch.equal(again.offsets, fewer.offsets)
    assert torch.allclose(again.values.float(), fewer.values.float(), atol=2e-2)
    example = TASK.gold_answer(PROMPTS[0])
    assert len(signals.rows(0)) == len(example) + 1


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
def test_recorded_signals_are_the_whole_logits(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capped: bool, autocast_dtype: torch.dtype | None
) -> None:
    """Whatever the chunk, and where the logits are not those of the head alone."""
    teacher = load_model(tiny["teacher"])
    if capped:
        sizes = {"vocab_size": teacher.model.config.vocab_size, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        config = Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5)
        teacher = replace(teacher, model=AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval())
    monkeypatch.setattr(projection, "affordable", lambda hidden, head: 7)
    signals = _record(teacher, TRACES, batch_size=9, autocast_dtype=autocast_dtype)
    for index, trace in enumerate(TRACES):
        example = encode_trace(teacher, trace)
        with torch.inference_mode(), torch.autocast("cpu", autocast_dtype, enabled=autocast_dtype is not None):
            logits = teacher.model(input_ids=torch.tensor([example.ids])).logits[0, len(example.prompt) - 1 : -1]
        expected = logits.double().log_softmax(-1)
        found = signals.head()(signals.rows(index)).double().log_softmax(-1)
        assert found.shape == expected.shape
        if signals.weight is None:  # what is recorded are log-probabilities, not any logits
            torch.testing.assert_close(signals.rows(index).double(), found, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(found, expected, atol=2e-3 if autocast_dtype is None else 0.3, rtol=1e-3)
        assert (found - expected).abs().mean() < (1e-3 if autocast_dtype is None else 2e-2)  # two half-precision passes differ, not by much


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_killed_student_resumes_to_the_same_weights(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    settings = _settings(on_policy_share=share, steps=6)
    _distil(tiny, tmp_path / "whole", "jsd", settings)

    class Killed(BaseException):
        pass

    def kill_in_step_4(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise Killed
        return compute_loss(self, *args, **kwargs)

    compute_loss = module._StudentTrainer.compute_loss
    monkeypatch.setattr(module._StudentTrainer, "compute_loss", kill_in_step_4)
    with pytest.raises(Killed):
        _distil(tiny, tmp_path / "killed", "jsd", settings)
    monkeypatch.undo()
    _distil(tiny, tmp_path / "killed", "jsd", settings)
    assert torch.equal(_weights(tmp_path / "killed"), _weights(tmp_path / "whole"))
    assert read_jsonl(tmp_path / "killed" / "metrics.jsonl") == read_jsonl(tmp_path / "whole" / "metrics.jsonl")


def test_on_policy_steps_learn_from_other_texts(tiny: dict[str, Path], tmp_path: Path) -> None:
    off = _distil(tiny, tmp_path / "off", "reverse_kl", _settings())
    on = _distil(tiny, tmp_path / "on", "reverse_kl", _settings(on_policy_share=1.0))
    assert [row["loss"] for row in off] != [row["loss"] for row in on]


def test_activations_that_are_computed_again_are_the_same(tiny: dict[str, Path], tmp_path: Path) -> None:
    kept = _distil(tiny, tmp_path / "kept", "jsd", _settings())
    again = _distil(tiny, tmp_path / "again", "jsd", _settings(activation_checkpointing=True))
    assert again == kept
    assert torch.equal(_weights(tmp_path / "again"), _weights(tmp_path / "kept"))


def test_truncated_texts_are_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    cut = [*TRACES[:3], Trace("x", "1+1", ">1:1+", truncated=True)]
    with pytest.raises(ValueError, match="complete traces"):
        _distil(tiny, tmp_path, "seqkd", _settings(), traces=cut)


def test_two_processes_are_one(tiny: dict[str, Path], tmp_path: Path) -> None:
    one = _distil(tiny, tmp_path / "one", "forward_kl", _settings(batch_size=8))
    done = run_in_processes(
        _distil, tiny, tmp_path / "two", "forward_kl", _settings(batch_size=4), processes=2, environment={"ACCELERATE_USE_CPU": "true"}
    )
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-4000:] + done[1].stderr[-4000:]
    two = read_jsonl(tmp_path / "two" / "metrics.jsonl")
    for a, b in zip(two, one, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    assert torch.allclose(_weights(tmp_path / "two"), _weights(tmp_path / "one"), atol=1e-4)
