"""The pictures behind the diagnoses: what awaits students, and what distilled ones show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from distillability.report.diagnosis_section import Subject
from distillability.report.figures import styled
from distillability.report.naming import look
from distillability.report.numbers import visible
from distillability.report.sweep_figure import knob_axis

__all__ = ["symptoms_picture", "trap_curve_picture", "traps_picture"]

_MOST_CURVES = 5
_LEAST_KNOBS = 4
# Measures against the knob, a panel each: of a student at its beginning, and of the students distilled from the same teacher.
_AWAITING = ("distillability", "log_ratio", "kl_drift", "wrong_trace_preference")
_SHOWN = ("confidence_when_wrong", "lost_recovery", "misplaced_tokens", "wrong_trace_preference")
_TRAILING = (0, (4, 2))  # dashes: along the student's texts

Bounds = tuple[float | None, float | None, float | None]  # value, low, high


# Before distillation


@styled
def traps_picture(found: Sequence[Subject]) -> tuple[Figure, str] | None:
    """What awaits students: the KL along the teacher's ranking, drift along a text, wrong-trace preference, KL by token class."""
    teachers = [subject for subject in found if subject.objective is None and not subject.is_forecast]
    shown = [subject for subject in teachers if not subject.found.get("calibration")][:_MOST_CURVES]
    if not shown:
        return None
    figure = Figure(figsize=(10.5, 8.4), layout="constrained")
    panels = figure.subplots(3, 2)
    _top_k_panel(panels[0][0], shown)
    _class_panel(panels[0][1], shown)
    _drift_panel(panels[1][0], shown, "nll", "teacher's NLL, nats a token")
    _drift_panel(panels[1][1], shown, "kl", "KL(teacher‖student), nats a token")
    _drift_panel(panels[2][0], shown, "entropy", "teacher's entropy, nats a token")
    _preference_panel(panels[2][1], shown)
    lines = [Line2D([], [], color=subject.colour, linewidth=2, label=visible(subject.label, 40)) for subject in shown]
    prefixes = [
        Line2D([], [], color="#555555", label="along the teacher's texts"),
        Line2D([], [], color="#555555", linestyle=_TRAILING, label="along the student's"),
    ]
    figure.legend(handles=[*lines, *prefixes, _mark()], loc="outside upper left", ncols=len(lines) + 3, frameon=False, fontsize=8)
    told = "; ".join(f"{subject.label}: {', '.join(one['title'] for one in subject.troubles) or 'nothing found'}" for subject in shown)
    return figure, f"What awaits students of each teacher, by a probe. {told}."


def _top_k_panel(axes: Axes, shown: Sequence[Subject]) -> None:
    axes.set_title("KL within the teacher's k likeliest tokens")
    for subject in shown:
        curve = subject.detail("tail_share", "curve") or []
        axes.plot([point["k"] for point in curve], [point["share"] for point in curve], color=subject.colour, linewidth=1.6, marker=".")
    if any(subject.detail("tail_share", "curve") for subject in shown):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        _nothing(axes)
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("k")
    axes.set_ylabel("share of the KL")
    axes.grid(axis="y")


def _class_panel(axes: Axes, shown: Sequence[Subject]) -> None:
    axes.set_title("KL by kind of token")
    by_class = [{line["class"]: line["mean_kl"] for line in subject.detail("filler_excess", "classes") or []} for subject in shown]
    classes = sorted({name for values in by_class for name in values}, key=lambda name: -max(values.get(name, 0.0) for values in by_class))
    _bars(
        axes,
        classes,
        [(subject.colour, [(values.get(name), None, None) for name in classes]) for subject, values in zip(shown, by_class, strict=True)],
    )
    axes.set_ylabel("nats a token")


def _drift_panel(axes: Axes, shown: Sequence[Subject], key: str, title: str) -> None:
    axes.set_title(title)
    drawn = False
    for subject in shown:
        curves = subject.detail("teacher_nll_drift", "curves") or {}
        for where, style in (("on_teacher", "-"), ("on_student", _TRAILING)):
            curve = curves.get(f"{key}_{where}") or []
            axes.plot(
                [point["place"] for point in curve],
                [point["value"] for point in curve],
                color=subject.colour,
                linestyle=style,
                linewidth=1.4,
            )
            drawn = drawn or bool(curve)
    if not drawn:
        _nothing(axes)
    axes.set_xlim(0, 1)
    axes.set_xlabel("place in the text")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(axis="y")


def _preference_panel(axes: Axes, shown: Sequence[Subject]) -> None:
    axes.set_title("A wrong text likelier than a right one")
    told = [{line["source"]: line for line in subject.detail("wrong_trace_preference", "by_source") or []} for subject in shown]
    sources = list(dict.fromkeys(name for lines in told for name in lines))
    values = [
        (subject.colour, [_bounds(lines.get(name, {}).get("student")) for name in sources])
        for subject, lines in zip(shown, told, strict=True)
    ]
    marks = [[_bounds(lines.get(name, {}).get("teacher"))[0] for name in sources] for lines in told]
    _bars(axes, sources, values, marks)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share of pairs")


# Against the knob


@styled
def trap_curve_picture(found: Sequence[Subject]) -> tuple[Figure, str] | None:
    """Traps and symptoms against the knob, with intervals; None where fewer than four values of it were diagnosed."""
    whole = [subject for subject in found if not subject.is_forecast]
    along = [subject for subject in whole if subject.found.get("knob") is not None and not subject.found.get("calibration")]
    objective = next((subject.objective for subject in along if subject.objective), None)
    rows = [
        ([subject for subject in along if subject.objective is None], _AWAITING),
        ([subject for subject in along if subject.objective == objective and objective is not None], _SHOWN),
    ]
    rows = [(members, measures) for members, measures in rows if len({subject.found["knob"] for subject in members}) >= _LEAST_KNOBS]
    if not rows:
        return None
    figure = Figure(figsize=(10.5, 2.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(_AWAITING), squeeze=False)
    for line, (members, measures) in zip(panels, rows, strict=True):
        line[0].set_ylabel("before distillation" if members[0].objective is None else f"students, {visible(str(objective), 20)}")
        for axes, name in zip(line, measures, strict=True):
            _measure_panel(axes, members, name)
    told = "; ".join(
        ", ".join(measures) + (" of students" if place else " before distillation") for place, (_, measures) in enumerate(rows)
    )
    return figure, f"Against the knob: {told}."


def _measure_panel(axes: Axes, members: Sequence[Subject], name: str) -> None:
    """One measure, a dot a teacher or student; the threshold dashed, what is missing a hollow mark at the bottom."""
    axes.set_title(name.replace("_", " "))
    measured = [(subject, finding) for subject in members if (finding := subject.finding(name)) is not None]
    for subject, finding in measured:
        knob = subject.found["knob"]
        if finding["value"] is None:
            axes.plot(knob, 0.03, marker="x", color="#888888", transform=axes.get_xaxis_transform())
            continue
        if finding["low"] is not None and finding["high"] is not None:
            axes.plot([knob, knob], [finding["low"], finding["high"]], color=subject.colour, linewidth=1.2, alpha=0.7)
        axes.plot(knob, finding["value"], marker="o", markersize=5, color=subject.colour)
    threshold = next((finding["threshold"] for _, finding in measured), None)
    if threshold is not None:
        axes.axhline(threshold, color="#999999", linewidth=1, linestyle=_TRAILING)
    if not measured:
        _nothing(axes)
    knob_axis(axes, [subject.found["knob"] for subject in members], narrow=True)
    axes.grid(axis="y")


# After distillation


@styled
def symptoms_picture(found: Sequence[Subject]) -> tuple[Figure, str] | None:
    """What distilled students show: reliability, recovery from planted errors, accuracy of the next token along right texts."""
    distilled = [subject for subject in found if subject.objective is not None and not subject.found.get("calibration")]
    if not distilled:
        return None
    shown = [subject for subject in distilled if subject.objective == distilled[0].objective and look(subject.source).marker == "o"]
    shown = (shown or distilled)[:_MOST_CURVES]
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    reliability, recovery, decay = figure.subplots(1, 3)
    _reliability_panel(reliability, shown)
    _recovery_panel(recovery, shown)
    _decay_panel(decay, shown)
    lines = [Line2D([], [], color=subject.colour, linewidth=2, label=f"of {visible(subject.label, 40)}") for subject in shown]
    figure.legend(handles=[*lines, _mark()], loc="outside upper left", ncols=len(lines) + 1, frameon=False, fontsize=8)
    told = "; ".join(f"{subject.label}: {', '.join(one['title'] for one in subject.troubles) or 'nothing found'}" for subject in shown)
    return figure, f"Symptoms of distilled students. {told}."


def _reliability_panel(axes: Axes, shown: Sequence[Subject]) -> None:
    axes.set_title("Confidence and truth")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (2, 2)))
    for subject in shown:
        for point in subject.detail("calibration_error", "diagram") or []:
            axes.plot([point["confidence"]] * 2, [point["low"], point["high"]], color=subject.colour, linewidth=1, alpha=0.6)
            axes.plot(point["confidence"], point["right"], marker="o", markersize=4.5, color=subject.colour)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("confidence in the answer, tenths of the answers")
    axes.set_ylabel("share right")


def _recovery_panel(axes: Axes, shown: Sequence[Subject]) -> None:
    axes.set_title("Right after a planted error")
    rates = [subject.detail("lost_recovery", "rates") or {} for subject in shown]
    values = [(subject.colour, [_bounds(found.get("student"))]) for subject, found in zip(shown, rates, strict=True)]
    _bars(axes, [""], values, [[_bounds(found.get("teacher"))[0]] for found in rates])
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share of texts")


def _decay_panel(axes: Axes, shown: Sequence[Subject]) -> None:
    axes.set_title("Next token of right texts right")
    drawn = False
    for subject in shown:
        curve = (subject.detail("misplaced_tokens", "curves") or {}).get("accuracy_student") or []
        axes.plot([point["place"] for point in curve], [point["value"] for point in curve], color=subject.colour, linewidth=1.4)
        drawn = drawn or bool(curve)
    if not drawn:
        _nothing(axes)
    axes.set_xlim(0, 1)
    axes.set_xlabel("place in the text")
    axes.set_ylabel("share of tokens")
    axes.grid(axis="y")


# Both


def _bounds(found: dict[str, Any] | None) -> Bounds:
    return (None, None, None) if not found else (found.get("value"), found.get("low"), found.get("high"))


def _bars(
    axes: Axes,
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[Bounds]]],
    marks: Sequence[Sequence[float | None]] | None = None,
) -> None:
    """Groups of bars with intervals, a colour a subject; a missing value leaves a gap that says so."""
    width = 0.8 / max(1, len(series))
    for place, (colour, values) in enumerate(series):
        for group, (value, low, high) in enumerate(values):
            x = group + (place - (len(series) - 1) / 2) * width
            if value is None:
                axes.annotate(
                    "missing", (x, 0), (0, 3), textcoords="offset points", rotation=90, ha="center", fontsize=6.5, color="#888888"
                )
                continue
            axes.bar(x, value, width * 0.9, color=colour)
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color="#777777", linewidth=1.1)
            mark = marks[place][group] if marks else None
            if mark is not None:
                axes.plot(x, mark, marker="_", markersize=13, markeredgewidth=2, color="#009e73", clip_on=False, zorder=5)
    axes.set_xticks(range(len(names)), [visible(name, 30) for name in names])
    axes.set_xlim(-0.55, max(1, len(names)) - 0.45)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if not names:
        _nothing(axes)


def _mark() -> Line2D:
    return Line2D([], [], linestyle="none", marker="_", markersize=10, markeredgewidth=2, color="#009e73", label="the teacher itself")


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="#888888", style="italic")
