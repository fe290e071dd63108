"""The gap: the student cannot represent what the teacher's texts ask of it.

The paper names the wrong-trace preference; its definition and the other measures are ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from distillability.diagnosis.estimates import Floats, mean, ratio_of_sums, sums_by_text
from distillability.diagnosis.evidence import Evidence, Role, TracePair
from distillability.diagnosis.findings import Finding, Rule
from distillability.diagnosis.positions import over_positions

__all__ = ["MEASURES", "coverage", "log_ratio", "overlap", "preference", "teachable_share", "wrong_trace_preference"]

_TRAP = "teacher–student gap"
_LEAST_PAIRS = 20
_EASIER = "`calibrate.teachers.NAME.knob` above 0: a teacher whose texts a small model finds likely; free: `plain_best_of_8` as the source"

_LOG_RATIO = Rule(
    _TRAP,
    "log_ratio",
    "log π_T/π_S of the teacher's texts, nats a byte",
    0.25,
    "above",
    "own: a text of 40 bytes is e^10 times less likely to the student than to its teacher",
    _EASIER,
)


def log_ratio(evidence: Evidence) -> Finding:
    """Σ (log π_T − log π_S) / Σ bytes over the teacher's texts, each model with its own tokenizer; 0 where p = q."""
    traced = evidence.on_teacher
    teacher, student = (sums_by_text(stats.logprob, stats.text, len(traced.texts)) for stats in (traced.teacher, traced.student))
    estimate = ratio_of_sums(teacher - student, traced.n_bytes, n_skipped=traced.n_skipped)
    per_text = float(np.mean(teacher - student)) if len(teacher) else 0.0
    return _LOG_RATIO.found(
        estimate, lambda _: f"A text of the teacher is {per_text:.1f} nats less likely to the student than to the teacher itself."
    )


_OVERLAP = Rule(
    _TRAP,
    "top_k_overlap",
    "shared share of both models' first k choices",
    0.5,
    "below",
    "own: fewer than half of the first choices are shared",
    f'{_EASIER}; `objectives = ["skewed_forward_kl"]`',
)


def overlap(evidence: Evidence) -> Finding:
    """Mean share of the top-k tokens that both have, on the teacher's texts; 1 where p = q."""
    estimate = over_positions(evidence, evidence.on_teacher, lambda compared: compared.overlap)
    return _OVERLAP.found(
        estimate, lambda value: f"Of the {evidence.top_k} likeliest tokens the two models share {value:.0%}.", k=evidence.top_k
    )


_COVERAGE = Rule(
    _TRAP,
    "teacher_mass_covered",
    "teacher mass within the student's first k choices",
    0.7,
    "below",
    "own: three tenths of what the teacher may say is not among the student's first choices",
    f'{_EASIER}; `objectives = ["skewed_forward_kl"]`',
)


def coverage(evidence: Evidence) -> Finding:
    """Mean teacher mass on the student's top-k tokens, on the teacher's texts."""
    estimate = over_positions(evidence, evidence.on_teacher, lambda compared: compared.covered)
    told = f"The student's {evidence.top_k} first choices"
    return _COVERAGE.found(estimate, lambda value: f"{told} hold {value:.0%} of the teacher's mass.", k=evidence.top_k)


_TEACHABLE = Rule(
    _TRAP,
    "teachable_share",
    "positions whose token is among the student's first k choices",
    0.7,
    "below",
    "own: at three positions of ten the student is taught what it does not consider",
    _EASIER,
)


def teachable_share(evidence: Evidence) -> Finding:
    """Share of positions of the teacher's texts whose token is in the student's top-k."""
    estimate = over_positions(evidence, evidence.on_teacher, lambda compared: compared.teachable)
    told = f"among the student's {evidence.top_k} first choices"
    return _TEACHABLE.found(estimate, lambda value: f"At {value:.0%} of the positions the teacher's token is {told}.", k=evidence.top_k)


_WRONG_TRACE = Rule(
    _TRAP,
    "wrong_trace_preference",
    "how much more often than the teacher the student finds a wrong text likelier than a right one",
    0.1,
    "above",
    "own: in one pair of ten the student errs where the teacher does not",
    f"{_EASIER}; more queries or steps",
)


def wrong_trace_preference(evidence: Evidence) -> Finding:
    """P(the student scores a wrong text of a prompt above a right one, per byte, ties ½) minus the same of the teacher."""
    pairs = evidence.pairs
    if len(pairs) < _LEAST_PAIRS:
        told = f" ({evidence.reasons['pairs']})" if "pairs" in evidence.reasons else ""
        return _WRONG_TRACE.missing(f"{len(pairs)} pairs of a right and a wrong text, and {_LEAST_PAIRS} are needed{told}", len(pairs))
    own = {role: _by_prompt(pairs, role) for role in ("student", "teacher")}
    estimate = mean(own["student"] - own["teacher"])
    sources = sorted({pair.source for pair in pairs})
    by_source = [_of_source(source, [pair for pair in pairs if pair.source == source]) for source in sources]
    student, teacher = float(own["student"].mean()), float(own["teacher"].mean())
    sentence = f"The student finds the wrong text likelier in {student:.0%} of the pairs, the teacher in {teacher:.0%}."
    return _WRONG_TRACE.found(estimate, lambda _: sentence, student=student, teacher=teacher, by_source=by_source)


MEASURES: tuple[Callable[[Evidence], Finding], ...] = (log_ratio, overlap, coverage, teachable_share, wrong_trace_preference)


def preference(right: Floats, wrong: Floats) -> Floats:
    """1 where the wrong text is likelier, ½ for a tie, else 0."""
    return np.where(wrong == right, 0.5, (wrong > right).astype(np.float64))


def _scores(pairs: Sequence[TracePair], role: Role) -> Floats:
    right = np.array([getattr(pair, f"{role}_right") for pair in pairs])
    return preference(right, np.array([getattr(pair, f"{role}_wrong") for pair in pairs]))


def _by_prompt(pairs: Sequence[TracePair], role: Role) -> Floats:
    """Mean preference of each prompt's pairs: pairs of one prompt are not independent."""
    found: dict[int, list[float]] = defaultdict(list)
    for pair, score in zip(pairs, _scores(pairs, role), strict=True):
        found[pair.prompt].append(score)
    return np.array([np.mean(scores) for scores in found.values()])


def _of_source(source: str, pairs: Sequence[TracePair]) -> dict[str, object]:
    line: dict[str, object] = {"source": source, "n": len(pairs)}
    for role in ("student", "teacher"):
        if len(pairs) < _LEAST_PAIRS:
            line[role] = None
            line["reason"] = f"{len(pairs)} pairs, and {_LEAST_PAIRS} are needed"
            continue
        found = mean(_by_prompt(pairs, role))
        line[role] = {"value": found.value, "low": found.low, "high": found.high}
    return line
