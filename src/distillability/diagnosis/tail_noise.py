"""Tail noise: tokens that carry no meaning, and the far tail of the vocabulary, dominate what the student is asked to match.

The paper names the trap; the measures are ours. All are on the teacher's own texts and need one vocabulary.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

import numpy as np

from distillability.diagnosis.evidence import Compared, Evidence
from distillability.diagnosis.findings import Finding, Rule
from distillability.diagnosis.positions import over_positions, share_of

__all__ = [
    "MEASURES",
    "filler_share",
    "gradient_tail",
    "hidden_gradient_tail",
    "noise_share",
    "reverse_tail_share",
    "student_spill",
    "tail_share",
    "token_class",
]

_TRAP = "tail noise"
_WORST = 12  # positions shown in context
_CONTEXT = 24  # tokens before them

_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but if of to in on at by for with from as that this these those it its is are was were be been being do does did "
        "have has had will would can could may might must shall should not no so than then there here he she they we you i his her their "
        "our your my me him them us which who whom what when where why how",
    )
)
_FILLERS = ("function word", "punctuation", "space")


def token_class(token: str) -> str:
    """`end`, `space`, `punctuation`, `number`, `function word` or `word`; `end` is the empty text of the end of turn."""
    text = token.strip("\u0120\u2581 \t\r\n")
    if not token:
        return "end"
    if not text:
        return "space"
    if all(not character.isalnum() for character in text):
        return "punctuation"
    if any(character.isdigit() for character in text):
        return "number"
    return "function word" if text.lower().strip(string.punctuation) in _FUNCTION_WORDS else "word"


_STUDENT_SPILL = Rule(
    _TRAP,
    "student_spill",
    "student mass outside the teacher's head",
    0.1,
    "above",
    "own: a tenth of the student's mass is spent on what the teacher all but rules out (1 %)",
    "more student steps (`tasks.NAME.steps`) before a divergence is blamed; `reverse_kl` pulls this mass in fastest",
)


def student_spill(evidence: Evidence) -> Finding:
    """Mean student mass outside the teacher's head: a diffuse student, which looks like a noisy teacher."""
    estimate = over_positions(evidence, evidence.on_teacher, lambda compared: compared.student_tail)
    return _STUDENT_SPILL.found(
        estimate, lambda value: f"The student puts {value:.0%} of its mass on tokens that together hold 1% of the teacher's."
    )


_TAIL_SHARE = Rule(
    _TRAP,
    "tail_share",
    "share of the KL outside the teacher's head",
    None,
    "above",
    "shown only: it grows with a diffuse student, and in the tail the integrand is the student's mass",
    'if the student\'s mass outside the head is large: more student steps; else `objectives = ["reverse_kl"]` or `seqkd`',
)


def tail_share(evidence: Evidence) -> Finding:
    """Share of Σ (p log(p/q) − p + q) outside the head, and its curve over the teacher's top-k tokens."""
    estimate = share_of(evidence, evidence.on_teacher, lambda compared: compared.tail_kl, lambda compared: compared.curve[:, -1])
    curve = _curve(evidence) if estimate.value is not None else []
    spill = student_spill(evidence)
    told = (
        f" The student has {spill.value:.0%} of its mass there: it is the student that is diffuse."
        if spill.severity in ("clear", "possible")
        else ""
    )
    return _TAIL_SHARE.found(
        estimate, lambda value: f"{value:.0%} of the forward KL comes from the last hundredth of the teacher's mass.{told}", curve=curve
    )


_NOISE_SHARE = Rule(
    _TRAP,
    "noise_share",
    "share of Σ|p log(p/q)| on tokens the teacher gives < 1 %",
    0.25,
    "above",
    "own: between the lab's clean pairs (up to .03) and 5 % of planted noise (.24 to .75)",
    '`objectives = ["reverse_kl"]`, which weighs tokens by the student, or `seqkd` on `plain_greedy` texts',
)


def noise_share(evidence: Evidence) -> Finding:
    """Share of Σ |p log(p/q)| on tokens of less than 1 % teacher mass: noise of the teacher, whatever the student does."""
    estimate = share_of(evidence, evidence.on_teacher, lambda compared: compared.rare_magnitude, lambda compared: compared.magnitude)
    heads = over_positions(evidence, evidence.on_teacher, lambda compared: compared.head_size)
    return _NOISE_SHARE.found(
        estimate,
        lambda value: (
            f"Tokens that the teacher finds less than 1% likely carry {value:.0%} of its signal; "
            f"99% of its mass takes {heads.value or 0:.1f} tokens on average."
        ),
        head_size=heads.value,
    )


_REVERSE = Rule(
    _TRAP,
    "reverse_tail_share",
    "share of KL(q‖p) on tokens the teacher gives < 1 %",
    None,
    "above",
    "shown only: of a teacher that is sure of its tokens nearly all, whatever the student (the lab: .94 to .96)",
    '`objectives = ["skewed_reverse_kl"]` or `jsd`, which are bounded where the teacher has no mass',
)


def reverse_tail_share(evidence: Evidence) -> Finding:
    """Share of Σ (q log(q/p) − q + p) on tokens of less than 1 % teacher mass."""
    estimate = share_of(evidence, evidence.on_teacher, lambda compared: compared.rare_reverse_kl, lambda compared: compared.reverse_kl)
    return _REVERSE.found(
        estimate, lambda value: f"{value:.0%} of the reverse KL punishes tokens that the teacher finds less than 1% likely."
    )


_GRADIENT = Rule(
    _TRAP,
    "gradient_tail",
    "share of the gradient's L1 outside the teacher's head",
    None,
    "above",
    "shown only: half of |q − p| is the student's excess, nearly all of which lies there whatever the student (the lab: .40 to .50)",
    'more student steps; where the student is not diffuse, `objectives = ["reverse_kl"]`',
)


def gradient_tail(evidence: Evidence) -> Finding:
    """Share of Σ |q − p|, the gradient of KL(p‖q) in logit space, outside the head; that of Σ (q − p)² beside it."""
    estimate = share_of(evidence, evidence.on_teacher, lambda compared: compared.tail_gradient_l1, lambda compared: compared.gradient_l1)
    squares = share_of(evidence, evidence.on_teacher, lambda compared: compared.tail_gradient_l2, lambda compared: compared.gradient_l2)
    return _GRADIENT.found(
        estimate,
        lambda value: f"{value:.0%} of the gradient's size, and {squares.value or 0:.0%} of its square, lie outside the teacher's head.",
        squared=squares.value,
    )


_HIDDEN = Rule(
    _TRAP,
    "hidden_gradient_tail",
    "share of the square of the gradient of hidden states from outside the teacher's head",
    None,
    "above",
    "shown only, beside the share in logit space",
    _GRADIENT.remedy,
)


def hidden_gradient_tail(evidence: Evidence) -> Finding:
    """Σ ‖Wᵀ g_tail‖² / Σ ‖Wᵀ g‖² of the gradient g = q − p of KL(p‖q), W the student's output head; above 1 where head and tail cancel."""
    gradients = evidence.on_teacher.gradients
    if evidence.on_teacher.compared is None or gradients is None:
        return _HIDDEN.missing(evidence.reason("compared" if evidence.on_teacher.compared is None else "gradients"))
    estimate = share_of(evidence, evidence.on_teacher, lambda _: gradients.tail_hidden_l2, lambda _: gradients.hidden_l2)
    return _HIDDEN.found(
        estimate, lambda value: f"Of what reaches the student's hidden states, squared, {value:.0%} comes from outside the teacher's head."
    )


_FILLER = Rule(
    _TRAP,
    "filler_excess",
    "share of the KL on filler tokens over their share of the text",
    1.5,
    "above",
    "own: fillers count half as much again as they are frequent",
    '`objectives = ["seqkd"]`: one token a position, whatever the divergence there',
)


def filler_share(evidence: Evidence) -> Finding:
    """Share of Σ KL(p‖q) at positions where a function word, punctuation or a space stands, over their share of all positions."""
    compared, traced = evidence.on_teacher.compared, evidence.on_teacher
    if compared is None:
        return _FILLER.missing(evidence.reason("compared"))
    classes = np.array([token_class(token) for token in compared.token])
    filler = np.isin(classes, _FILLERS).astype(np.float64)
    if not 0 < filler.mean() < 1:
        return _FILLER.missing("the texts have no filler tokens, or nothing else", len(traced.texts))
    estimate = share_of(
        evidence, evidence.on_teacher, lambda found: found.forward_kl * filler / filler.mean(), lambda found: found.forward_kl
    )
    details = {} if estimate.value is None else {"classes": _by_class(compared, classes), "worst": _worst(compared)}
    return _FILLER.found(estimate, lambda value: f"A token of filler carries {value:.2f} times the KL of an average one.", **details)


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (
    student_spill,
    noise_share,
    tail_share,
    reverse_tail_share,
    gradient_tail,
    hidden_gradient_tail,
    filler_share,
)


def _by_class(compared: Compared, classes: np.ndarray) -> list[dict[str, Any]]:
    """A line a class, the largest share of the KL first."""
    total = float(compared.forward_kl.sum())
    lines = [
        {
            "class": name,
            "kl_share": float(compared.forward_kl[classes == name].sum() / total),
            "share": float((classes == name).mean()),
            "mean_kl": float(compared.forward_kl[classes == name].mean()),
        }
        for name in sorted(set(classes.tolist()))
    ]
    return sorted(lines, key=lambda line: -line["mean_kl"])


def _worst(compared: Compared) -> list[dict[str, Any]]:
    """The positions of largest KL, with what stands before them."""
    lines = []
    for place in np.argsort(-compared.forward_kl)[:_WORST].tolist():
        first = max(place - _CONTEXT, int(np.searchsorted(compared.text, compared.text[place])))
        lines.append(
            {
                "before": "".join(compared.token[first:place]),
                "token": compared.token[place],
                "teacher": compared.teacher_choice[place],
                "student": compared.student_choice[place],
                "kl": float(compared.forward_kl[place]),
            }
        )
    return lines


def _curve(evidence: Evidence) -> list[dict[str, float]]:
    """For each k the share of the KL, of Σ|p log(p/q)| not, within the teacher's top-k tokens."""
    compared = evidence.on_teacher.compared
    assert compared is not None
    sums = compared.curve.sum(0)
    return [{"k": float(k), "share": float(value / sums[-1])} for k, value in zip(evidence.curve_k, sums, strict=True)]
