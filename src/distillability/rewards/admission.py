"""Is a proxy fit to steer? Measured on the plain teacher's samples before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distillability.inference.likelihood import Likelihood
from distillability.ops.statistics import auc
from distillability.rewards.compatibility import compatibility
from distillability.rewards.compose import compatibility_scale

__all__ = ["Admission", "Check", "admit"]

_MIN_AUC = 0.8
_MIN_WRONG = 50
_MIN_OF_A_MODE = 10  # an area under a curve of fewer is noise
_MIN_SPREAD_NATS = 0.3
_MIN_STANDARD_ERRORS = 3.0
_RESAMPLES = 500


@dataclass(frozen=True)
class Check:
    """One measure; `passed` and `value` are None where it could not be taken, and `note` says why."""

    name: str
    value: float | None
    threshold: float
    passed: bool | None
    n: int
    note: str = ""


@dataclass(frozen=True)
class Admission:
    """passed: the proxy is not broken, and has an opinion about right answers by at least one of two measures."""

    passed: bool
    checks: list[Check]
    summary: str
    advice: str


def admit(
    *,
    proxy: Sequence[Likelihood | None],
    reference: Sequence[Likelihood | None],
    right: Sequence[bool],
    group_size: int,
    easy: Sequence[bool | None],
    planted_wrong: Sequence[Likelihood | None] = (),
) -> Admission:
    """Judge a proxy on the plain teacher's sampled completions, before any training.

    Args:
        proxy, reference: likelihoods of the completions, groups of `group_size` side by side.
        right: which are right. easy: whether the completion is of an easy mode, None where the task labels none.
        planted_wrong: the proxy's likelihoods of texts made wrong, by a planted error or by belonging to another prompt; used where
            the teacher makes too few of its own.

    Refused: a proxy that does not prefer right to wrong texts (or where that could not be measured), and one that neither spreads among
    right completions nor prefers easy ones. A right-against-wrong preference alone says nothing about whether a proxy can steer.

    Source: ours.
    """
    sound = _prefers_right(proxy, right, planted_wrong)
    spread = _spread(proxy, reference, right, group_size)
    steers = _prefers_easy(proxy, right, easy)
    passed = bool(sound.passed) and (bool(spread.passed) or bool(steers.passed))
    checks = [sound, spread, steers]
    summary = "; ".join(map(_shown, checks))
    return Admission(passed, checks, summary, "" if passed else _advice(sound))


def _prefers_right(proxy: Sequence[Likelihood | None], right: Sequence[bool], planted: Sequence[Likelihood | None]) -> Check:
    name = "AUC of log P per byte, right against wrong"
    good = [score for score, ok in zip(proxy, right, strict=True) if ok and score is not None]
    bad = [score for score, ok in zip(proxy, right, strict=True) if not ok and score is not None]
    note = f"{len(bad)} wrong texts of the teacher's own"
    if len(bad) < _MIN_WRONG:
        extra = [score for score in planted if score is not None]
        note += f" and {len(extra)} planted ones"
        bad += extra
    value = auc(_per_byte(good), _per_byte(bad)) if len(bad) >= _MIN_WRONG else None
    if value is None:
        reason = f"{len(good)} right texts, {note}; at least {_MIN_WRONG} wrong ones and a right one are needed"
        return Check(name, None, _MIN_AUC, None, len(bad), reason)
    return Check(name, value, _MIN_AUC, value >= _MIN_AUC, len(bad), note)


def _spread(proxy: Sequence[Likelihood | None], reference: Sequence[Likelihood | None], right: Sequence[bool], group_size: int) -> Check:
    name = "within-group std of C among right completions, nats a sequence"
    values = compatibility(proxy, reference, "none").view(-1, group_size)
    counted = torch.tensor(right).view(-1, group_size) & ~values.isnan()
    usable = int((counted.sum(1) >= 2).sum())
    value = compatibility_scale(values, counted)
    if value is None or usable < 2:
        return Check(name, None, _MIN_SPREAD_NATS, None, usable, "fewer than two prompts with two right completions")
    error = _standard_error(values, counted)
    passed = value >= _MIN_SPREAD_NATS and value >= _MIN_STANDARD_ERRORS * error
    return Check(name, value, _MIN_SPREAD_NATS, passed, usable, f"standard error {error:.3f}, bootstrap over prompts")


def _standard_error(values: torch.Tensor, counted: torch.Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    found = [scale for rows in draws if (scale := compatibility_scale(values[rows], counted[rows])) is not None]
    return float(torch.tensor(found, dtype=torch.float64).std())


def _prefers_easy(proxy: Sequence[Likelihood | None], right: Sequence[bool], easy: Sequence[bool | None]) -> Check:
    name = "AUC of log P per byte, easy against hard modes"
    rows = [(score, mode) for score, ok, mode in zip(proxy, right, easy, strict=True) if ok and score is not None and mode is not None]
    of_easy, of_hard = [score for score, mode in rows if mode], [score for score, mode in rows if not mode]
    note = f"{len(of_easy)} right texts of easy modes, {len(of_hard)} of hard ones"
    value = auc(_per_byte(of_easy), _per_byte(of_hard)) if min(len(of_easy), len(of_hard)) >= _MIN_OF_A_MODE else None
    if value is None:
        return Check(name, None, _MIN_AUC, None, len(rows), f"{note}; at least {_MIN_OF_A_MODE} of each are needed")
    return Check(name, value, _MIN_AUC, value >= _MIN_AUC, len(rows), note)


def _per_byte(scores: Sequence[Likelihood]) -> torch.Tensor:
    return torch.tensor([score.logprob / score.n_bytes for score in scores], dtype=torch.float64)


def _shown(check: Check) -> str:
    if check.value is None:
        return f"{check.name} could not be measured ({check.note})"
    return f"{check.name} {check.value:.2f} (needs {check.threshold:g}, n {check.n})"


def _advice(sound: Check) -> str:
    if sound.passed is None:
        return (
            "not measured is not passed: raise calibrate.scale_prompts, or take a teacher that is right more often; "
            "--force calibrates all the same and is recorded"
        )
    if not sound.passed:
        return "the proxy cannot tell right from wrong: train it on more of the teacher's texts, or take a larger one"
    return "the proxy has no opinion about right answers: take a smaller one, trained on as many texts as a student will buy"
