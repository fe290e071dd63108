"""The pictures of a report. One figure, one question; the same source has the same colour and marker everywhere."""

from __future__ import annotations

import base64
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from distillability.files import new_file
from distillability.report.folder import Curve
from distillability.report.naming import MARKERS, kind_of, label, look
from distillability.report.numbers import knob_text, number, visible
from distillability.report.rows import Arm, Cell, Index
from distillability.report.tables import control_arm

__all__ = ["Picture", "budget_line", "calibration_picture", "knob_picture", "queries_picture", "save", "styled"]

_DPI = 160
_CSS_PIXELS = 0.64  # of the page, for one pixel of a PNG
_INK = "#333333"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#555555",
    "ytick.color": _INK,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "text.parse_math": False,  # names and modes are data, not formulas
    "figure.facecolor": "white",
}
# Not the colours of sources: a mode is another thing.
_MODE_COLOURS = ("#1b7f5c", "#c2185b", "#8fd3b6", "#f3a6c6", "#c9b400", "#6d4c2f", "#b0b0b0")


@dataclass(frozen=True)
class Picture:
    """A saved figure. `file`: its name in figures/. `uri`: the same as a data URI. `alt`: what it shows, in words.

    width: CSS pixels, so that letters are as large in one picture as in the next.
    """

    name: str
    file: str
    uri: str
    alt: str
    width: int


def save(figure: Figure, folder: Path, name: str, alt: str) -> Picture:
    """Write `name`.png."""
    folder.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # a name in another script gets boxes, not noise
        box = _laid_out(figure)
        figure.savefig(png, format="png", dpi=_DPI, bbox_inches=box, metadata={"Software": None})
    file = f"{name}.png"
    with new_file(folder / file) as temporary:
        temporary.write_bytes(png.getvalue())
    uri = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    pixels = int.from_bytes(png.getvalue()[16:20], "big")  # the header's width
    return Picture(name, file, uri, alt, round(pixels * _CSS_PIXELS))


def _laid_out(figure: Figure) -> Bbox:
    """Lay it out once; saving alone would do so twice, to measure what is drawn and to draw it. Returns what is drawn, in inches."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    return figure.get_tightbbox(renderer).padded(mpl.rcParams["savefig.pad_inches"])


def _layout() -> ConstrainedLayoutEngine:
    """Room enough between panels that a title is not taken for the label of the axis above it."""
    return ConstrainedLayoutEngine(h_pad=0.09)


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw under the report's style, whatever the user's own is."""

    def drawn(*arguments: Any, **options: Any) -> Any:
        with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **_STYLE}):
            return draw(*arguments, **options)

    return drawn


# The knob: who learns how much, and what the teacher keeps


@styled
def knob_picture(index: Index, task: str) -> tuple[Figure, str] | None:
    """Students' accuracy by source, a panel an objective, with the teacher's own right steps; controls below. None without students."""
    arms = [arm for arm in index.arms(task) if any(cell.value is not None for _, cell in _measured(index, task, arm))]
    if not arms:
        return None
    spectrum = index.spectrum(task)
    controls = [source for source in index.sources(task) if source not in spectrum]
    columns = min(4, len(arms))
    bands = [arms[start : start + columns] for start in range(0, len(arms), columns)]
    heights = [0.75 + 0.42 * len(spectrum)] * len(bands) + ([0.75 + 0.26 * len(controls)] if controls else [])
    figure = Figure(figsize=(10.5, sum(heights) + 0.7), layout=_layout())
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for row, band in enumerate(bands):
        for column, arm in enumerate(band):
            axes = figure.add_subplot(grid[row, column])
            _knob_panel(axes, index, task, arm, spectrum, named=column == 0)
    if controls:
        arm = control_arm(index, task) or arms[0]
        _control_panel(figure.add_subplot(grid[-1, :]), index, task, arm, controls, spectrum)
    _knob_legend(figure, index.teacher_metric(task), {kind_of(source) for source in controls})
    return figure, _knob_words(index, task, arms[0], spectrum)


def _measured(index: Index, task: str, arm: Arm) -> Iterator[tuple[str, Cell]]:
    for source in index.spectrum(task):
        for cell in index.student_cells(task, source, arm):
            yield source, cell


def _knob_panel(axes: Axes, index: Index, task: str, arm: Arm, spectrum: Sequence[str], *, named: bool) -> None:
    _share_axis(axes, len(spectrum))
    axes.set_title(visible(arm.label, 40))
    _chance_line(axes, index, task)
    for place, source in enumerate(spectrum):
        for teacher in index.teacher_cells(task, source, index.teacher_metric(task), "greedy"):
            if teacher.value is not None:
                axes.plot(
                    teacher.value,
                    place,
                    marker="D",
                    markersize=9,
                    color="white",
                    markeredgecolor="#009e73",
                    markeredgewidth=1.6,
                    zorder=2,
                    clip_on=False,
                )
        cells = index.student_cells(task, source, arm)
        for offset, cell in _spread(cells):
            _dot(axes, index, task, source, cell, place + offset)
            _number_beside(axes, cell, place + offset)
        if all(cell.value is None for cell in cells):
            axes.text(0.5, place, "not measured", ha="center", va="center", color="#888888", fontsize=8, style="italic")
    axes.set_yticks(range(len(spectrum)), [_tick(index, task, source) for source in spectrum] if named else [""] * len(spectrum))


def _chance_line(axes: Axes, index: Index, task: str) -> None:
    floor = index.results.run.chance.get(task)
    if floor is not None:
        axes.axvline(floor, color="#999999", linewidth=1, linestyle=(0, (2, 2)), zorder=1)


def _tick(index: Index, task: str, source: str) -> str:
    knob = index.knob(task, source)
    name = visible(label(source), 40)
    return name if knob is None or source.startswith("knob_") else f"{name}\nknob {knob_text(knob)}"


def _spread(cells: Sequence[Cell]) -> Iterator[tuple[float, Cell]]:
    """Calibrations side by side, the first on top."""
    for number_, cell in enumerate(cells):
        yield (number_ - (len(cells) - 1) / 2) * 0.28, cell


def _number_beside(axes: Axes, cell: Cell, place: float) -> None:
    """To the right of a low dot and to the left of a high one, clear of the teacher's diamond."""
    if cell.value is None:
        return
    high = cell.value > 0.55
    end = (cell.low if high else cell.high) or cell.value
    how: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7.5, "color": "#444444", "zorder": 5}
    text = axes.annotate(number(cell.value), (end, place), (-9, 0) if high else (6, 0), ha="right" if high else "left", **how)
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # lines pass behind it


def _dot(axes: Axes, index: Index, task: str, source: str, cell: Cell, place: float) -> None:
    if cell.value is None:
        return
    style = look(source, index.knob(task, source))
    if cell.low is not None and cell.high is not None:
        axes.plot([cell.low, cell.high], [place, place], color=style.colour, linewidth=1.8, solid_capstyle="round", zorder=3)
    face = "white" if style.hollow else style.colour
    axes.plot(
        cell.value, place, marker=style.marker, markersize=6.5, color=face, markeredgecolor=style.colour, markeredgewidth=1.5, zorder=4
    )


def _share_axis(axes: Axes, rows: int) -> None:
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _control_panel(axes: Axes, index: Index, task: str, arm: Arm, controls: Sequence[str], spectrum: Sequence[str]) -> None:
    _share_axis(axes, len(controls))
    _chance_line(axes, index, task)
    axes.set_title(f"Cheap tricks, ceilings and attacks, by {visible(arm.label, 40)} (lines: students of the teachers above)")
    for source in spectrum:
        for cell in index.student_cells(task, source, arm):
            if cell.value is not None:
                axes.axvline(cell.value, color=look(source, index.knob(task, source)).colour, linewidth=1.1, alpha=0.7, zorder=2)
    for place, source in enumerate(controls):
        cells = index.student_cells(task, source, arm)
        for offset, cell in _spread(cells):
            _dot(axes, index, task, source, cell, place + offset)
        if all(cell.value is None for cell in cells):
            axes.text(0.02, place, "not measured", va="center", color="#888888", fontsize=8, style="italic")
    axes.set_yticks(range(len(controls)), [visible(label(source), 50) for source in controls])
    axes.set_xlabel("accuracy (fraction of test prompts)")


def _knob_legend(figure: Figure, kept: str, kinds: Collection[str]) -> None:
    def marker(shape: str, text: str, face: str, edge: str) -> Line2D:
        return Line2D(
            [], [], linestyle="none", marker=shape, markersize=7, color=face, markeredgecolor=edge, markeredgewidth=1.5, label=text
        )

    handles = [
        marker("o", "students (with interval)", "#555555", "#555555"),
        marker("D", f"the teacher's own {kept.replace('_', ' ')}", "white", "#009e73"),
    ]
    handles.append(Line2D([], [], color="#999999", linewidth=1, linestyle=(0, (2, 2)), label="a guess"))
    names = {"free": "free alternative", "ceiling": "ceiling, not free", "control": "control", "elicitation": "attack"}
    for kind, name in names.items():
        if kind in kinds:
            hollow = kind == "elicitation"
            handles.append(marker(MARKERS.get(kind, "o"), name, "white" if hollow else "#767676", "#c44e00" if hollow else "#767676"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=8, handletextpad=0.2, columnspacing=1.2
    )


def _knob_words(index: Index, task: str, arm: Arm, spectrum: Sequence[str]) -> str:
    told = []
    for source in spectrum:
        values = [number(cell.value) for cell in index.student_cells(task, source, arm)]
        teacher = [number(cell.value) for cell in index.teacher_cells(task, source, index.teacher_metric(task), "greedy")]
        told.append(f"{label(source)}: students {' and '.join(values)}, the teacher itself {' and '.join(teacher)}")
    return f"Accuracy by source, {arm.label}. " + "; ".join(told) + "."


# Accuracy against queries


@styled
def queries_picture(index: Index, task: str) -> tuple[Figure, str] | None:
    """Accuracy against the traces bought, a panel an objective, with the points at more steps. None where one budget was tried."""
    arms = [arm for arm in index.arms(task) if any(len(index.budgets(task, source, arm)) > 1 for source in index.sources(task))]
    if not arms:
        return None
    figure = Figure(figsize=(max(6.5, min(10.5, 4.2 * len(arms) + 2.3)), 3.9), layout="constrained")
    panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    told = []
    for axes, arm in zip(panels, arms, strict=True):
        told += _queries_panel(axes, index, task, arm)
    panels[0].set_ylabel("students' accuracy")
    star = Line2D([], [], linestyle="none", marker="*", markersize=10, color="white", markeredgecolor="#555555", label="more student steps")
    if any(
        budget[1] != index.budget(task)[1] for source in index.sources(task) for arm in arms for budget in index.budgets(task, source, arm)
    ):
        figure.legend(handles=[star], loc="outside upper right", frameon=False, fontsize=8.5)
    return figure, "Accuracy against queries. " + "; ".join(told) + "."


def _queries_panel(axes: Axes, index: Index, task: str, arm: Arm) -> list[str]:
    queries, steps = index.budget(task)
    axes.set_title(visible(arm.label, 40))
    axes.set_xscale("log", base=2)
    axes.grid(axis="y")
    axes.set_ylim(-0.03, 1.05)
    told, ticks, ends = [], set(), []
    for source in index.sources(task):
        budgets = index.budgets(task, source, arm)
        if len(budgets) < 2:
            continue
        usual = [budget for budget in budgets if budget[1] == steps]
        points = [(budget[0], cell) for budget in usual for cell in index.student_cells(task, source, arm, budget=budget)]
        ends += _curve(axes, index, task, source, [(asked, cell) for asked, cell in points if not cell.calibration])
        _curve(axes, index, task, source, [(asked, cell) for asked, cell in points if cell.calibration], joined=False)
        for budget in (budget for budget in budgets if budget[1] != steps):
            for cell in index.student_cells(task, source, arm, budget=budget):
                _longer(axes, index, task, source, budget, cell, points)
        ticks |= {budget[0] for budget in budgets}
        told.append(f"{label(source)}: " + ", ".join(f"{number(cell.value)} at {asked}" for asked, cell in points))
    _name_curves(axes, index, task, ends)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" + ("\n(headline)" if value == queries else "")))
    axes.set_xlim(min(ticks) / 1.25, max(ticks) * 2.1)
    axes.set_xlabel("traces bought from the source")
    return told


def _curve(
    axes: Axes, index: Index, task: str, source: str, points: Sequence[tuple[float, Cell]], *, joined: bool = True
) -> list[tuple[float, float, str]]:
    """Draw one source; returns where its line ends and whose it is."""
    known = [(asked, cell) for asked, cell in points if cell.value is not None]
    if not known:
        return []
    style = look(source, index.knob(task, source))
    known = known if joined else [(asked * 0.95, cell) for asked, cell in known]
    asked, cells = zip(*known, strict=True)
    line: dict[str, Any] = {
        "color": style.colour,
        "linewidth": 1.8 if joined else 0,
        "marker": style.marker,
        "markersize": 5.5 if joined else 3.5,
    }
    axes.plot(asked, [cell.value for cell in cells], **line, zorder=3)
    for place, cell in known:
        if cell.low is not None and cell.high is not None:
            axes.plot([place, place], [cell.low, cell.high], color=style.colour, linewidth=1.2, alpha=0.6)
    return [(asked[-1], cells[-1].value, source)] if joined else []


def _name_curves(axes: Axes, index: Index, task: str, ends: Sequence[tuple[float, float, str]]) -> None:
    """Names at the ends of the lines, kept apart where lines end close to each other."""
    lowest: dict[float, float] = defaultdict(lambda: -1.0)
    for asked, value, source in sorted(ends):
        place = max(value, lowest[asked])
        lowest[asked] = place + 0.065
        how: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}
        axes.annotate(visible(label(source), 40), (asked, place), (8, 0), color=look(source, index.knob(task, source)).colour, **how)


def _longer(
    axes: Axes, index: Index, task: str, source: str, budget: tuple[int, int], cell: Cell, points: Sequence[tuple[int, Cell]]
) -> None:
    """A student trained longer on as many traces: a hollow star, tied to the point it grew from."""
    if cell.value is None:
        return
    style = look(source, index.knob(task, source))
    place = budget[0] * 1.13
    origin = next((other.value for asked, other in points if asked == budget[0] and other.calibration == cell.calibration), None)
    if origin is not None:
        axes.plot([budget[0], place], [origin, cell.value], color=style.colour, linewidth=1, linestyle=":")
    axes.plot(place, cell.value, marker="*", markersize=10, color="white", markeredgecolor=style.colour, markeredgewidth=1.2, zorder=4)


# Calibration curves

_CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("task reward,\nright steps", ("task_reward", "right_steps")),
    ("C of\nright answers", ("compatibility",)),
    ("anchor,\nnats a sequence", ("anchor_nats",)),
    ("bytes", ("bytes",)),
)


@styled
def calibration_picture(index: Index, task: str, curves: Sequence[Curve], anchor_budget: float | None) -> tuple[Figure, str] | None:
    """How calibration went, a column a teacher and a row a quantity; every calibration is a line, and has its modes in a row of their own.

    None without curves.
    """
    by_source: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        if curve.task == task:
            by_source[curve.source].append(curve)
    sources = [source for source in index.teachers(task) if source in by_source]
    sources += [source for source in by_source if source not in sources]
    if not sources:
        return None
    modes = _modes(curves, task)
    calibrations = sorted({curve.calibration for source in sources for curve in by_source[source]}) if modes else []
    rows = len(_CURVES) + len(calibrations)
    figure = Figure(figsize=(max(4.5, min(10.5, 2.6 * len(sources) + 1.2)), 1.5 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, len(sources), sharex="col", sharey="row", squeeze=False)
    for column, source in enumerate(sources):
        panels[0][column].set_title(_tick(index, task, source).replace("\n", ", "), fontsize=10 if len(sources) < 8 else 7.5)
        for row, (_, keys) in enumerate(_CURVES):
            _curve_panel(panels[row][column], by_source[source], keys, look(source, index.knob(task, source)).colour)
        if anchor_budget is not None:
            budget_line(panels[2][column], anchor_budget)
        for row, calibration in enumerate(calibrations, len(_CURVES)):
            _mode_panel(panels[row][column], [curve for curve in by_source[source] if curve.calibration == calibration], modes)
        panels[-1][column].set_xlabel("step")
    titles = [title for title, _ in _CURVES] + [f"modes, shares\n(calibration #{calibration + 1})" for calibration in calibrations]
    for row, title in enumerate(titles):
        panels[row][0].set_ylabel(title)
    for row in (0, *range(len(_CURVES), rows)):
        panels[row][0].set_ylim(-0.03, 1.05)
    figure.legend(handles=_calibration_legend(modes), loc="outside lower left", ncols=5, frameon=False, fontsize=8)
    return figure, f"Calibration of {', '.join(label(source) for source in sources)}: " + ", ".join(
        title.replace("\n", " ") for title, _ in _CURVES
    ) + (", modes by step." if modes else " by step.")


def _modes(curves: Sequence[Curve], task: str) -> dict[str, str]:
    """Mode -> colour, in the order in which modes were first seen."""
    names = dict.fromkeys(mode for curve in curves if curve.task == task for line in curve.lines for mode in line.get("modes") or {})
    return {mode: _MODE_COLOURS[place % len(_MODE_COLOURS)] for place, mode in enumerate(names)}


def _series(curve: Curve, value: Callable[[dict[str, Any]], float | None]) -> tuple[list[float], list[float]]:
    """Steps and values; a missing value is a gap, not a zero."""
    pairs = [(line["step"], value(line)) for line in curve.lines if line.get("step") is not None]
    return [float(step) for step, _ in pairs], [float("nan") if found is None else float(found) for _, found in pairs]


def _curve_panel(axes: Axes, curves: Sequence[Curve], keys: Sequence[str], colour: str) -> None:
    axes.grid(axis="y")
    for curve in curves:
        for key, style in zip(keys, ("-", (0, (3, 1.5))), strict=False):
            steps, values = _series(curve, lambda line, key=key: line.get(key))  # type: ignore[misc]
            axes.plot(steps, values, color=colour, linewidth=1.3, linestyle=style, alpha=1 if not curve.calibration else 0.55)


def budget_line(axes: Axes, budget: float) -> None:
    """Drawn where it is within reach of the curve; far above it would only flatten the picture."""
    if axes.dataLim.y1 * 2 >= budget:
        axes.axhline(budget, color="#999999", linewidth=0.9, linestyle=(0, (2, 2)))


def _mode_panel(axes: Axes, curves: Sequence[Curve], modes: dict[str, str]) -> None:
    """Shares stacked, of one calibration: several stacks cannot share a panel. What is left white has no known mode."""
    lines = [line for curve in curves for line in curve.lines if line.get("modes") and line.get("step") is not None]
    if not lines:
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes, color="#888888", fontsize=8)
        return
    shares = [[line["modes"].get(mode) or 0.0 for line in lines] for mode in modes]
    axes.stackplot([line["step"] for line in lines], shares, colors=list(modes.values()), linewidth=0)


def _calibration_legend(modes: dict[str, str]) -> list[Line2D]:
    lines = [
        Line2D([], [], color="#555555", label="task reward"),
        Line2D([], [], color="#555555", linestyle=(0, (3, 1.5)), label="right steps"),
        Line2D([], [], color="#555555", alpha=0.5, label="fainter: further calibrations"),
    ]
    return lines + [Line2D([], [], color=colour, linewidth=5, label=f"mode: {visible(mode, 30)}") for mode, colour in modes.items()]
