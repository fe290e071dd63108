"""The paper's tasks as settings of a data task: where each set lies on the hub, what is asked, and what grades the answer.

A recipe may set any of these keys otherwise: a `path` of its own, above all. What the paper asked its models, word for word, is not known;
the last line of each prompt is ours. Columns are those of the hub's sets:

    bigmath_level_4, _5   prompt, solution. The levels are subsets of the processed set; the raw one (SynthLabsAI/Big-Math-RL-Verified:
                          problem, answer, source, domain, llama8b_solve_rate) has no column for them.
    commonsenseqa         question, choices = {label, text}, answerKey; the hub's test split has no answers and is left out.
    mmlu_pro              question, options, answer (a letter).
    supergpqa             question, options, answer (a text), answer_letter.
    dolly                 instruction, context, response, category; graded by a reward model, the response is only shown to students.
    vicuna                text; the 80 questions of FastChat's question.jsonl, which have no answers and are on the hub under no one name.
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["PRESETS", "PresetName"]

PresetName = Literal["bigmath_level_4", "bigmath_level_5", "commonsenseqa", "mmlu_pro", "supergpqa", "dolly", "vicuna"]

_CHOICE = "{question}\n\n{%s}\n\nThink step by step, and end with the line: The answer is (X)."


def _bigmath(level: int) -> dict[str, Any]:
    return {
        "path": "open-r1/Big-Math-RL-Verified-Processed",
        "subset": f"level_{level}",
        "split": "train",
        "prompt_template": "{prompt}\n\nThink step by step, and put the final answer within \\boxed{{}}.",
        "answer_column": "solution",
        "grader": "math_verify",
    }


PRESETS: dict[str, dict[str, Any]] = {
    "bigmath_level_4": _bigmath(4),
    "bigmath_level_5": _bigmath(5),
    "commonsenseqa": {
        "path": "tau/commonsense_qa",
        "split": "train+validation",
        "prompt_template": _CHOICE % "choices",
        "answer_column": "answerKey",
        "grader": "choice",
        "chance": 0.2,
    },
    "mmlu_pro": {
        "path": "TIGER-Lab/MMLU-Pro",
        "split": "test",
        "prompt_template": _CHOICE % "options",
        "answer_column": "answer",
        "grader": "choice",
        "chance": 0.1,
    },
    "supergpqa": {
        "path": "m-a-p/SuperGPQA",
        "split": "train",
        "prompt_template": _CHOICE % "options",
        "answer_column": "answer_letter",
        "grader": "choice",
        "chance": 0.1,
    },
    "dolly": {
        "path": "databricks/databricks-dolly-15k",
        "split": "train",
        "prompt_template": "{instruction}\n\n{context}",
        "answer_column": "response",
        "grader": "reward_model",
    },
    "vicuna": {"prompt_column": "text", "answer_column": None, "grader": "reward_model"},
}
