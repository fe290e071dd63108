"""The knob curve: students along the knob, and below them what the teacher kept, how far it went, and how far it was to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from distillability.report.figures import budget_line, styled
from distillability.report.numbers import knob_text, number, visible
from distillability.report.rows import Arm, Cell, Index
from distillability.report.sweep_page import curve_arms

__all__ = ["curve_picture", "knob_axis"]

# Not the colours of sources, nor of modes: an objective is another thing.
_OBJECTIVE_COLOURS = ("#00616b", "#b0206b", "#7a6a00", "#3f51b5", "#5d4037", "#6f7f00")
_TEACHER, _INK, _GREY = "#009e73", "#333333", "#888888"
_DOTTED, _DASHED = (0, (1, 1.6)), (0, (4, 2))
_CLOSEST = 0.062  # of a panel's width, between the names of two values

Point = tuple[float, Cell]


@styled
def curve_picture(index: Index, task: str, anchor_budget: float | None) -> tuple[Figure, str] | None:
    """Students' accuracy against the knob, sampled and greedy answers side by side, an objective a line; the teacher below.

    None where the knob was not swept, or nothing of it is measured yet.
    """
    arms = [arm for arm in index.arms(task) if any(cell.value is not None for _, cell in _students(index, task, arm, "greedy"))]
    if not index.is_sweep(task) or not arms:
        return None
    decodings = [
        decoding
        for decoding in ("sampled", "greedy")
        if any(cell.value is not None for arm in arms for _, cell in _students(index, task, arm, decoding))
    ]
    below: list[Callable[[Axes], None]] = [
        lambda axes: _kept_panel(axes, index, task),
        lambda axes: _anchor_panel(axes, index, task, anchor_budget),
    ]
    if _teachers(index, task, "mode_shift", "sampled"):
        below.append(lambda axes: _shift_panel(axes, index, task))
    figure = Figure(figsize=(10.5, 6.4), layout=ConstrainedLayoutEngine(h_pad=0.09))
    grid = figure.add_gridspec(2, 6, height_ratios=[1.25, 1])
    colours = {arm: _OBJECTIVE_COLOURS[place % len(_OBJECTIVE_COLOURS)] for place, arm in enumerate(arms)}
    missing = False
    for place, decoding in enumerate(decodings):
        width = 6 // len(decodings)
        axes = figure.add_subplot(grid[0, place * width : (place + 1) * width])
        missing |= _student_panel(axes, index, task, colours, decoding)
        axes.set_ylabel("students' accuracy" if place == 0 else "")
    for place, draw in enumerate(below):
        width = 6 // len(below)
        axes = figure.add_subplot(grid[1, place * width : (place + 1) * width])
        draw(axes)
        knob_axis(axes, _knobs(index, task), narrow=len(below) > 2)
    figure.legend(handles=list(_legend(index, task, colours, missing)), loc="outside upper left", ncols=6, frameon=False, fontsize=8)
    return figure, _words(index, task, arms, decodings)


def _knobs(index: Index, task: str) -> list[float]:
    return [index.knob(task, source) or 0.0 for source in index.knobs_of(task)]


def _students(index: Index, task: str, arm: Arm, decoding: str) -> list[Point]:
    return [
        (index.knob(task, source) or 0.0, cell)
        for source in index.knobs_of(task)
        for cell in index.student_cells(task, source, arm, decoding=decoding)
    ]


def _teachers(index: Index, task: str, metric: str, decoding: str | None) -> list[Point]:
    """Only what has a row: a task without modes has no shift to miss."""
    found = [
        (index.knob(task, source) or 0.0, cell)
        for source in index.knobs_of(task)
        for cell in index.teacher_cells(task, source, metric, decoding)
    ]
    return found if any(cell.value is not None or cell.low is not None or cell.high is not None for _, cell in found) else []


# The axis of all panels


def knob_axis(axes: Axes, values: Iterable[float], *, narrow: bool) -> None:
    """Logarithmic in both directions, and straight between the two smallest values that are not 0."""
    knobs = sorted(set(values))
    smallest = min((abs(knob) for knob in knobs if knob), default=1.0)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    scale = axes.xaxis.get_transform()
    low, high = scale.transform([knobs[0], knobs[-1]])
    margin = 0.06 * (high - low or 1.0)
    axes.set_xlim(*scale.inverted().transform([low - margin, high + margin]))
    named = set(_apart(knobs, list(scale.transform(knobs)), _CLOSEST * (1.35 if narrow else 1.0) * (high - low + 2 * margin)))
    axes.xaxis.set_major_locator(FixedLocator(knobs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value) if value in named else ""))
    axes.tick_params(axis="x", labelsize=7 if narrow else 8)
    axes.axvline(0, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_xlabel("knob" if narrow else "knob (lower: to learn less · higher: to learn more)")


def _apart(knobs: Sequence[float], places: Sequence[float], closest: float) -> Iterator[float]:
    """The values whose names have room: both ends and 0 first, the others from the ends inwards."""
    taken: list[float] = []
    for knob, place in sorted(zip(knobs, places, strict=True), key=lambda pair: (pair[0] not in (knobs[0], knobs[-1], 0.0), -abs(pair[0]))):
        if all(abs(place - other) >= closest for other in taken):
            taken.append(place)
            yield knob


def _short(knob: float) -> str:
    return f"{knob:g}".replace("0.", ".", 1).replace("-", "−") if abs(knob) < 1 and knob else f"{knob:g}".replace("-", "−")


# Lines


def _line(
    axes: Axes, points: Sequence[Point], colour: str, *, hollow: bool = False, marker: str = "o", shift: float = 0.0, joined: bool = True
) -> None:
    """The first calibrations joined, where nothing is missing between them; further ones as smaller marks.

    Args:
        shift: to the right, in points, so that objectives do not cover each other.
    """
    move = axes.transData
    if shift and axes.figure is not None:
        move = move + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    marks: dict[str, Any] = {"marker": marker, "color": colour, "markerfacecolor": "white" if hollow else colour, "transform": move}
    way = (_DASHED if hollow else "-") if joined else "none"
    first = [(knob, cell) for knob, cell in points if not cell.calibration]
    values = [float("nan") if cell.value is None else cell.value for _, cell in first]
    axes.plot([knob for knob, _ in first], values, **marks, markersize=5, linestyle=way, linewidth=1.5)
    for knob, cell in points:
        if cell.value is not None and cell.calibration:
            axes.plot(knob, cell.value, **marks, markersize=3.2, linestyle="none")
        if cell.low is not None and cell.high is not None:
            axes.plot([knob, knob], [cell.low, cell.high], color=colour, linewidth=1.3, alpha=0.75, transform=move)


def _student_panel(axes: Axes, index: Index, task: str, colours: dict[Arm, str], decoding: str) -> bool:
    """Whether something that belongs on the curve is missing."""
    axes.set_title(f"Students, {decoding} answers")
    axes.grid(axis="y")
    axes.set_ylim(-0.04, 1.05)
    _across(axes, index, task)
    missing = False
    along = curve_arms(index, task)
    for place, (arm, colour) in enumerate(colours.items()):
        points = _students(index, task, arm, decoding)
        plain = index.student_cells(task, "plain", arm, decoding=decoding)[0]
        if arm in along and plain.value is not None:
            axes.axhline(plain.value, color=colour, linewidth=1.2, linestyle=_DOTTED, zorder=1)
            if len(along) == 1 and plain.low is not None and plain.high is not None:
                axes.axhspan(plain.low, plain.high, color=colour, alpha=0.08, linewidth=0, zorder=0)
        shown = points if arm in along else [(knob, cell) for knob, cell in points if cell.value is not None]
        _line(axes, shown, colour, shift=3.0 * (place - (len(colours) - 1) / 2), marker="o" if arm in along else "s", joined=arm in along)
        absent = [knob for knob, cell in shown if cell.value is None]
        axes.plot(absent, [0.0] * len(absent), marker="x", color=_GREY, linewidth=0, markersize=6)
        missing |= bool(absent)
    knob_axis(axes, _knobs(index, task), narrow=False)
    return missing


def _across(axes: Axes, index: Index, task: str) -> None:
    floor = index.results.run.chance.get(task)
    if floor is not None:
        axes.axhline(floor, color="#999999", linewidth=1, linestyle=(0, (2, 2)), zorder=1)


def _kept_panel(axes: Axes, index: Index, task: str) -> None:
    metric = index.teacher_metric(task)
    axes.set_title(f"Teacher's own {metric.replace('_', ' ')}")
    axes.grid(axis="y")
    lowest = [0.92]
    for decoding in ("greedy", "sampled"):
        points = _teachers(index, task, metric, decoding)
        _line(axes, points, _TEACHER, hollow=decoding == "greedy", marker="D")
        lowest += [cell.low if cell.low is not None else cell.value for _, cell in points if cell.value is not None]
        plain = index.teacher_cells(task, "plain", metric, decoding)[0].value
        if plain is not None and decoding == "sampled":
            axes.axhline(plain, color=_INK, linewidth=1.1, linestyle=_DOTTED, zorder=1)
    axes.set_ylim(max(-0.04, min(lowest) - 0.03), 1.01)


def _anchor_panel(axes: Axes, index: Index, task: str, budget: float | None) -> None:
    axes.set_title("Anchor, nats a sequence")
    axes.grid(axis="y")
    rest = {(knob, cell.calibration): cell.value for knob, cell in _teachers(index, task, "anchor_flat", None)}
    points = _teachers(index, task, "anchor_nats", "sampled")
    _line(axes, points, _INK)
    for knob, cell in points:
        if cell.value is not None and rest.get((knob, cell.calibration)) == 0:
            axes.plot(knob, cell.value, marker="o", markersize=5, color="white", markeredgecolor=_INK, zorder=4)
    if not points:
        _nothing(axes)
    if budget is not None:
        budget_line(axes, budget)
    axes.margins(y=0.08)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _shift_panel(axes: Axes, index: Index, task: str) -> None:
    """Where one kind of mode is gone there is only a bound, drawn as an arrowhead."""
    axes.set_title("Shift of log-odds, hard to easy")
    axes.grid(axis="y")
    predicted = sorted(
        {(knob, cell.value) for knob, cell in _teachers(index, task, "mode_shift_predicted", "sampled") if cell.value is not None}
    )
    axes.plot([knob for knob, _ in predicted], [value for _, value in predicted], color=_GREY, linestyle=_DASHED, linewidth=1.3, zorder=1)
    points = _teachers(index, task, "mode_shift", "sampled")
    _line(axes, points, _INK)
    for knob, cell in points:
        bound, marker = (cell.low, "^") if cell.high is None else (cell.high, "v")
        if cell.value is None and bound is not None:
            axes.plot(knob, bound, marker=marker, markersize=6.5, color="white", markeredgecolor=_INK, zorder=4)
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    ends = [abs(value) for _, value in predicted]
    ends += [abs(value) for _, cell in points for value in (cell.value, cell.low, cell.high) if value is not None]
    top = 1.3 * max([1.0, *ends])
    axes.set_yscale("symlog", linthresh=1.0, linscale=0.6)
    axes.set_ylim(-top, top)
    axes.yaxis.set_major_locator(FixedLocator([sign * place for place in (1, 3, 10, 30, 100, 300) for sign in (-1, 1)] + [0]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color=_GREY, fontsize=8, style="italic")


# In words


def _legend(index: Index, task: str, colours: dict[Arm, str], missing: bool) -> Iterator[Line2D]:
    along = curve_arms(index, task)
    for arm, colour in colours.items():
        shape = "o" if arm in along else "s"
        name = visible(arm.label, 30) + ("" if arm in along else " (ends)")
        yield Line2D([], [], color=colour, marker=shape, markersize=5, linestyle="-" if arm in along else "none", label=name)
    yield Line2D([], [], color="#555555", linewidth=1.2, linestyle=_DOTTED, label="plain teacher, or its students")
    if index.results.run.chance.get(task) is not None:
        yield Line2D([], [], color="#999999", linewidth=1, linestyle=(0, (2, 2)), label="a guess")
    if missing:
        yield Line2D([], [], color=_GREY, marker="x", linewidth=0, label="not measured")
    yield Line2D([], [], color=_TEACHER, marker="D", markersize=4.5, label="teacher, sampled")
    yield Line2D([], [], color=_TEACHER, marker="D", markersize=4.5, markerfacecolor="white", linestyle=_DASHED, label="teacher, greedy")
    if any(cell.value == 0 for _, cell in _teachers(index, task, "anchor_flat", None)):
        yield Line2D([], [], color=_INK, marker="o", markersize=5, markerfacecolor="white", label="anchor still moving")
    shifts = _teachers(index, task, "mode_shift", "sampled")
    if shifts:
        yield Line2D([], [], color=_GREY, linestyle=_DASHED, linewidth=1.3, label="shift predicted")
    if any(cell.value is None and (cell.low is not None or cell.high is not None) for _, cell in shifts):
        yield Line2D([], [], color=_INK, marker="^", markersize=5.5, markerfacecolor="white", linewidth=0, label="shift beyond this")


def _words(index: Index, task: str, arms: Sequence[Arm], decodings: Sequence[str]) -> str:
    told = []
    for arm in [arm for arm in arms if arm in curve_arms(index, task)] or arms[:1]:
        for decoding in decodings:
            points = _students(index, task, arm, decoding)
            plain = number(index.student_cells(task, "plain", arm, decoding=decoding)[0].value)
            values = ", ".join(f"{number(cell.value)} at {knob_text(knob)}" for knob, cell in points)
            told.append(f"{arm.label}, {decoding}: {values}; students of the plain teacher {plain}")
    anchors = ", ".join(f"{number(cell.value)} at {knob_text(knob)}" for knob, cell in _teachers(index, task, "anchor_nats", "sampled"))
    return f"Students' accuracy against the knob. {'. '.join(told)}. Anchor in nats a sequence: {anchors or 'not measured'}."
