"""What a diagnosis is made of: one finding a measure, each with the rule that reads it and the option that it points to."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distillability.diagnosis.estimates import Estimate, missing

__all__ = ["Diagnosis", "Finding", "Rule", "Severity"]

Severity = Literal["clear", "possible", "none", "unknown"]
_ORDER: tuple[Severity, ...] = ("clear", "possible", "unknown", "none")
_MARKS: dict[Severity, str] = {"clear": "!!", "possible": "! ", "unknown": "? ", "none": "  "}


@dataclass(frozen=True)
class Rule:
    """How one measure is read.

    Attributes:
        trap: the trap or symptom that it is a measure of.
        name: as in `results.json`.
        title: a few words for tables.
        threshold: where trouble begins. None for a measure that is only shown.
        side: on which side of the threshold trouble lies.
        source: where the threshold comes from.
        remedy: the option of this package that it points to.
    """

    trap: str
    name: str
    title: str
    threshold: float | None
    side: Literal["above", "below"]
    source: str
    remedy: str

    def found(self, estimate: Estimate, say: Callable[[float], str], **details: Any) -> Finding:
        """The finding of this rule; `say` puts its value into words, and of a value that is missing the reason is said."""
        told = f"Not measured: {estimate.reason}." if estimate.value is None else say(estimate.value)
        return Finding(self, estimate, told, details)

    def missing(self, reason: str, n: int = 0) -> Finding:
        """The finding that there is none, and why."""
        return self.found(missing(reason, n), str)


@dataclass(frozen=True)
class Finding:
    """One measure of one trap, read.

    sentence: what it says, for a practitioner. details: what tables and figures are made of; JSON-serialisable.
    """

    rule: Rule
    estimate: Estimate
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def value(self) -> float | None:
        return self.estimate.value

    @property
    def severity(self) -> Severity:
        """`clear`: the whole interval is beyond the threshold; `possible`: the value is; `unknown`: there is no value."""
        threshold, found = self.rule.threshold, self.estimate
        if found.value is None:
            return "unknown"
        if threshold is None:
            return "none"
        sign = 1 if self.rule.side == "above" else -1
        if sign * found.value <= sign * threshold:
            return "none"
        nearest = found.low if self.rule.side == "above" else found.high
        return "clear" if nearest is not None and sign * nearest > sign * threshold else "possible"

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable, complete."""
        return vars(self.rule) | vars(self.estimate) | {"severity": self.severity, "sentence": self.sentence, "details": self.details}

    def __str__(self) -> str:
        """One line, and a second one with the remedy where there is something to fix."""
        line = f"{_MARKS[self.severity]} {self.rule.title}: {self.estimate}\n     {self.sentence}"
        return f"{line}\n     remedy: {self.rule.remedy}" if self.severity in ("clear", "possible") else line


@dataclass(frozen=True)
class Diagnosis:
    """What is known of one teacher, one student and one task.

    cost: seconds, and forwards (sequences passed through the model) by role.
    """

    teacher: str
    student: str
    task: str
    findings: Sequence[Finding]
    cost: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    @property
    def by_severity(self) -> list[Finding]:
        """The most serious first; within a severity as they were measured."""
        return sorted(self.findings, key=lambda finding: _ORDER.index(finding.severity))

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable, complete."""
        named = {key: value for key, value in vars(self).items() if key != "findings"}
        return named | {"findings": [finding.as_dict() for finding in self.findings]}

    def __str__(self) -> str:
        return "\n".join([self._head, *map(str, self.by_severity)])

    @property
    def _head(self) -> str:
        seconds = f", {self.cost['seconds']:.0f} s" if "seconds" in self.cost else ""
        return f"{self.task}: teacher {self.teacher}, student {self.student}{seconds}"

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        columns = ("severity", "measure", "value", "what it says", "remedy")
        rows = [
            (
                finding.severity,
                finding.rule.title,
                str(finding.estimate),
                finding.sentence,
                finding.rule.remedy if finding.severity in ("clear", "possible") else "",
            )
            for finding in self.by_severity
        ]
        head = "".join(f"<th>{column}</th>" for column in columns)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<p>{html.escape(self._head)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
