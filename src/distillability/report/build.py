"""Putting a report together: what is shown, in which order, for the page and for Markdown alike."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distillability.config.sources import SWEEP
from distillability.files import write_text
from distillability.report import numbers
from distillability.report.cost_table import costs_of
from distillability.report.diagnosis_section import Board, Forecasts, Subject, board, forecasts, subjects
from distillability.report.figures import Picture, calibration_picture, knob_picture, queries_picture, save
from distillability.report.folder import RunContents, read_run
from distillability.report.limits import limits
from distillability.report.naming import kind_of, label, sort_key, swatch
from distillability.report.rows import Index, arm_of, budget_of
from distillability.report.sweep_figure import curve_picture
from distillability.report.sweep_page import curve_arms, dose_table, sweep_verdicts
from distillability.report.tables import headline_table
from distillability.report.trap_figures import symptoms_picture, trap_curve_picture, traps_picture
from distillability.report.verdicts import verdicts
from distillability.results import Row

__all__ = ["build"]

_SHOWN_PROMPTS = 2  # opened; the rest wait folded
_MOST_PROMPTS = 24
_MOST_TEXTS = 60
_MOST_MEASURES = 400  # in a table of the page; all of them are among the rows
_MOST_ROWS = 50_000
_COLUMNS = (
    "task", "split", "role", "source", "knob", "calibration", "objective", "prefix", "queries", "steps", "decoding", "seed",
    "metric", "value", "ci_low", "ci_high", "n", "n_truncated", "reason",
)  # fmt: skip
_HYPHEN = re.compile(r"(?<![\w)])-(?=\d)")
_MEASURES = {
    "knob_order": "rank correlation of knob and students' accuracy",
    "knob_levels_between": "values in between apart from 0 and both ends",
    "anchor_growth": "rank correlation of the knob's size and the anchor",
    "difference_to_plain": "difference to students of the plain teacher",
    "gap_closed": "gap closed, share of plain student to teacher",
    "kept": "kept, share of what plain students gain",
    "yield": "yield of the best attack, share of the plain teacher's",
    "elicited_yield": "elicited yield, share of the plain teacher's",
    "oracle_elicited_yield": "elicited yield, easy mode's first bytes given",
    "headline_up": "over the best free alternative",
    "teacher_right_steps_change": "change of the teacher's right steps",
    "teacher_accuracy_change": "change of the teacher's accuracy",
}


@dataclass(frozen=True)
class _Section:
    """One task, ready to be shown."""

    task: str
    name: str
    curve: list[dict[str, Any]]
    curve_arms: list[str]
    kept_metric: str
    students: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    teachers: list[dict[str, Any]]
    sampled: list[dict[str, Any]]
    pictures: dict[str, Picture]
    prompts: list[dict[str, Any]]
    prompts_left_out: int
    measures: list[dict[str, Any]]
    more_measures: list[dict[str, Any]]
    measures_left_out: int
    calibrations: list[dict[str, Any]]
    traps: Board | None
    symptoms: Board | None
    forecasts: Forecasts | None
    diagnosed: list[Subject]
    footnotes: dict[str, int]
    admission: dict[str, Any]
    chance: float | None
    queries: int | None
    steps: int | None


def build(folder: Path) -> Path:
    """Write the figures, `report.md` and `report.html`; see `distillability.report.build_report`."""
    contents = read_run(folder)
    index = Index(contents.results)
    sections = [_section(contents, index, folder, place) for place, _ in enumerate(index.tasks)]
    evaluated = any(row.metric == "accuracy" for row in contents.results.rows)
    shown = {
        "run": contents.results.run,
        "sections": sections,
        "only_diagnosed": not evaluated and any(section.diagnosed or section.forecasts for section in sections),
        "verdicts": [*sweep_verdicts(index), *verdicts(index)],
        "limits": limits(index, [task.get("type", "") for task in contents.recipe.get("tasks", [])]),
        "facts": list(_facts(contents)),
        "costs": costs_of(contents.manifest, contents.recipe),
        "versions": contents.manifest.get("versions", {}),
        "n_rows": len(contents.results.rows),
        "n_missing": sum(row.value is None for row in contents.results.rows),
    }
    write_text(folder / "report.md", _environment(page=False).get_template("report.md.j2").render(shown))
    page = folder / "report.html"
    write_text(page, _environment(page=True).get_template("report.html.j2").render(shown | _page_parts(contents.results.rows)))
    return page


def _environment(*, page: bool) -> Environment:
    loader = PackageLoader("distillability.report")
    environment = Environment(loader=loader, autoescape=page, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., Any]] = {
        "number": _with_minus(numbers.number, page=page),
        "signed": _with_minus(numbers.signed, page=page),
        "quantity": _with_minus(numbers.quantity, page=page),
        "knob": _with_minus(numbers.knob_text, page=page),
        "nats": _with_minus(numbers.nats, page=page),
        "minus": lambda text: _HYPHEN.sub("−", text),
        "label": label,
        "visible": numbers.visible,
        "md": numbers.markdown,
        "duration": numbers.duration,
    }
    environment.filters.update(filters)
    return environment


def _with_minus(show: Callable[..., str], *, page: bool) -> Callable[..., str]:
    """On the page a negative number gets a minus sign; Markdown keeps the hyphen that one can search for."""
    return (lambda *arguments: _HYPHEN.sub("−", show(*arguments))) if page else show


def _page_parts(rows: Sequence[Row]) -> dict[str, Any]:
    """Style and script, each with the hash by which the page's own policy lets it in; and every row as data."""
    style, script = (
        files("distillability.report").joinpath("templates", name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return {
        "style": Markup(style),  # our own file
        "script": Markup(script),  # our own file
        "style_hash": _policy_hash(style),
        "script_hash": _policy_hash(script),
        "data": {"columns": _COLUMNS, "rows": [_flat(row) for row in rows[:_MOST_ROWS]]},
        "rows_left_out": max(0, len(rows) - _MOST_ROWS),
    }


def _policy_hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _flat(row: Row) -> list[Any]:
    budget = row.budget
    extra = {"queries": budget and budget.queries, "steps": budget and budget.steps}
    return [extra[name] if name in extra else getattr(row, name) for name in _COLUMNS]


# One task


def _section(contents: RunContents, index: Index, folder: Path, place: int) -> _Section:
    task = index.tasks[place]
    entries = [_dressed(entry) for entry in headline_table(contents.results) if entry["task"] == task]
    sampled = [entry for entry in headline_table(contents.results, decoding="sampled") if entry["task"] == task]
    measures = list(_measures(index, task))
    prompts = [sample for sample in contents.samples if sample.get("task") == task]
    diagnosed = subjects(contents.diagnoses, task)
    return _Section(
        task=task,
        name=numbers.visible(task, 60),
        curve=dose_table(index, task) if index.is_sweep(task) else [],
        curve_arms=[arm.label for arm in curve_arms(index, task)],
        kept_metric=index.teacher_metric(task),
        students=[entry for entry in entries if entry["kind"] == "students"],
        controls=[entry for entry in entries if entry["kind"] == "control"],
        teachers=[line for entry in entries if entry["kind"] == "teacher" for line in _kept_lines(entry, index.teacher_metric(task))],
        sampled=[_dressed(entry) for entry in sampled if entry["kind"] == "students"],
        pictures=_pictures(contents, index, folder, task, place),
        prompts=[_prompt(sample, index, number) for number, sample in enumerate(prompts[:_MOST_PROMPTS])],
        prompts_left_out=max(0, len(prompts) - _MOST_PROMPTS),
        measures=[one for one in measures if one["central"]][:_MOST_MEASURES],
        more_measures=[one for one in measures if not one["central"]][:_MOST_MEASURES],
        measures_left_out=max(0, len(measures) - _MOST_MEASURES),
        calibrations=list(_calibrations(index, task)),
        traps=board([subject for subject in diagnosed if subject.objective is None and not subject.is_forecast]),
        forecasts=forecasts(diagnosed),
        symptoms=board([subject for subject in diagnosed if subject.objective is not None]),
        diagnosed=[subject for subject in diagnosed if not subject.is_forecast],
        footnotes=_footnotes(index, task),
        admission=contents.admissions.get(task, {}),
        chance=contents.results.run.chance.get(task),
        queries=index.budget(task)[0],
        steps=index.budget(task)[1],
    )


def _dressed(entry: dict[str, Any]) -> dict[str, Any]:
    """With the colours of its sources."""
    if entry["kind"] == "students":
        return entry | {"looks": {source: swatch(source, knob) for source, knob in entry["knobs"].items()}}
    return entry | {"look": swatch(entry["source"], entry.get("knob"))}


def _kept_lines(entry: dict[str, Any], metric: str) -> Iterator[dict[str, Any]]:
    """One line a calibration and way of decoding: what is to be kept, and accuracy beside it where that is something else."""
    found = {(measure["metric"], measure["decoding"]): measure["rows"] for measure in entry["measures"]}
    for decoding in ("greedy", "sampled"):
        accuracies = {row["calibration"]: row for row in found["accuracy", decoding]}
        for kept in found[metric, decoding]:
            accuracy = accuracies.get(kept["calibration"], found["accuracy", decoding][0])
            yield {"label": entry["label"], "look": entry["look"], "decoding": decoding, "kept": kept, "accuracy": accuracy}


def _pictures(contents: RunContents, index: Index, folder: Path, task: str, place: int) -> dict[str, Picture]:
    """Files are numbered by task, for a task's name may hold anything."""
    settings = contents.recipe.get("calibrate", {})
    curve = curve_picture(index, task, settings.get("anchor_budget"))
    diagnosed = subjects(contents.diagnoses, task)
    drawn = {
        "curve": curve,
        "knob": None if curve else knob_picture(index, task),  # the same students in another order
        "queries": queries_picture(index, task),
        "calibration": calibration_picture(index, task, contents.curves, settings.get("anchor_budget")),
        "traps": traps_picture(diagnosed),
        "trap-curve": trap_curve_picture(diagnosed),
        "symptoms": symptoms_picture(diagnosed),
    }
    suffix = f"-{place + 1}" if len(index.tasks) > 1 else ""
    return {name: save(figure[0], folder / "figures", f"{name}{suffix}", figure[1]) for name, figure in drawn.items() if figure}


def _prompt(sample: dict[str, Any], index: Index, place: int) -> dict[str, Any]:
    task, texts = sample.get("task", ""), sample.get("texts", [])

    def order(text: dict[str, Any]) -> tuple[Any, ...]:
        source = text.get("source") or ""
        return text.get("role") != "teacher", text.get("objective") or "", sort_key(source, index.knob(task, source))

    ordered = sorted(texts, key=order)
    shown = [
        text | {"look": swatch(text.get("source") or "", index.knob(task, text.get("source") or ""))} for text in ordered[:_MOST_TEXTS]
    ]
    return {
        "prompt": str(sample.get("prompt", "")),
        "answer": str(sample.get("answer", "")),
        "texts": shown,
        "left_out": len(texts) - len(shown),
        "open": place < _SHOWN_PROMPTS,
    }


def _measures(index: Index, task: str) -> Iterator[dict[str, Any]]:
    """Derived rows in the order of their definitions, the headline budget before others."""
    order = {metric: place for place, metric in enumerate(_MEASURES)}
    headline = index.budget(task)

    def place(row: Row) -> tuple[Any, ...]:
        elsewhere = row.budget is not None and budget_of(row) != headline
        return order[row.metric], elsewhere, sort_key(row.source, row.knob), arm_of(row).order, row.calibration or 0, row.decoding or ""

    for row in sorted(index.derived.get(task, []), key=place):
        yield {
            "measure": _MEASURES[row.metric],
            "metric": row.metric,
            "label": label(row.source),
            "look": swatch(row.source, index.knob(task, row.source)),
            "how": _how(row, headline),
            "calibration": row.calibration,
            "central": _is_central(row, headline),
            "row": row,
        }


def _how(row: Row, headline: tuple[int | None, int | None]) -> str:
    """By what means and at which budget, in words; what is usual is not said."""
    chosen = (row.interval or "").partition("; ")[2]  # which rival or attack was the best on the validate split
    parts = [arm_of(row).label] if row.objective else []
    parts += [row.decoding] if row.decoding else []
    parts += [chosen] if chosen else []
    if row.budget is not None and budget_of(row) != headline:
        parts.append(f"{row.budget.queries or '?'} queries, {row.budget.steps or '?'} steps")
    return ", ".join(parts)


def _is_central(row: Row, headline: tuple[int | None, int | None]) -> bool:
    """Of a whole sweep, or about students of a calibrated teacher, answering greedily, at the headline budget; the rest is folded away."""
    if row.source == SWEEP:
        return True
    ours = kind_of(row.source) == "calibrated" and not row.metric.startswith("teacher")
    return ours and row.decoding != "sampled" and (row.budget is None or budget_of(row) == headline)


def _calibrations(index: Index, task: str) -> Iterator[dict[str, Any]]:
    """A line a calibration: what it cost and where it ended, each apart."""
    arms = index.arms(task)
    for source in index.teachers(task):
        rows = index.teacher_metrics(task, source)
        for calibration in sorted({row.calibration for row in rows if row.calibration is not None}):
            mine: dict[tuple[str, str | None], Row] = {(row.metric, row.decoding): row for row in rows if row.calibration == calibration}
            students = [cell for cell in index.student_cells(task, source, arms[0]) if cell.calibration == calibration] if arms else []
            yield {
                "source": source,
                "label": label(source),
                "look": swatch(source, index.knob(task, source)),
                "knob": index.knob(task, source),
                "calibration": calibration,
                "objective": arms[0].label if arms else None,
                "students": students[0].as_dict() if students else None,
                "values": [mine.get(key) for key in _CALIBRATION_KEYS],
            }


def _footnotes(index: Index, task: str) -> dict[str, int]:
    """Why values of the table of calibrations are missing, numbered; the same reason once."""
    values = (row for line in _calibrations(index, task) for row in line["values"])
    reasons = dict.fromkeys(_NO_ROW if row is None else row.reason or "" for row in values if row is None or row.value is None)
    return {reason: place for place, reason in enumerate(reasons, 1)}


_NO_ROW = "no such row in results.json"
_CALIBRATION_KEYS = (
    ("calibration_steps", None),
    ("calibration_seconds", None),
    ("anchor_nats", "sampled"),
    ("compatibility", "sampled"),
    ("correlation_compatibility_bytes", "sampled"),
    ("bytes", "sampled"),
    ("right_steps", "greedy"),
    ("right_steps", "sampled"),
)


# How it was made


def _facts(contents: RunContents) -> Iterator[tuple[str, str]]:
    manifest, run = contents.manifest, contents.results.run
    yield "recipe digest (SHA-256)", run.recipe_digest
    yield "distillability", run.version
    if "command" in manifest:
        yield "command", " ".join(numbers.short_path(str(part)) for part in manifest["command"])
    if "created" in manifest:
        yield "started", str(manifest["created"])
    yield "wall time", numbers.duration(run.seconds)
    if manifest.get("seconds"):
        yield "of which", ", ".join(f"{stage} {numbers.duration(spent)}" for stage, spent in manifest["seconds"].items())
    dtypes = manifest.get("autocast") or run.notes.get("autocast") or {}
    yield "dtype", "; ".join(_dtype(task, by_role) for task, by_role in dtypes.items()) if dtypes else "not recorded"
    yield "processor", _processor(manifest.get("processor", {}))
    if "seeds" in manifest:
        yield "seeds", ", ".join(f"{name} {value}" for name, value in manifest["seeds"].items())
    if "code" in manifest:
        yield "code", _code(manifest["code"])
    for parent in manifest.get("parents", []):
        name = parent.get("model") or parent.get("data") or "?"
        yield "model" if "model" in parent else "data", f"{numbers.short_path(str(name))} ({_digest(parent)})"


def _dtype(task: str, by_role: dict[str, str]) -> str:
    return f"{task}: " + ", ".join(f"{role} {dtype}" for role, dtype in by_role.items())


def _processor(found: dict[str, Any]) -> str:
    parts = [
        found.get("model"),
        found.get("machine"),
        f"{found['cores']} cores" if found.get("cores") else None,
        " ".join(found.get("flags", [])),
    ]
    return ", ".join(str(part) for part in parts if part) or "not recorded"


def _code(found: dict[str, Any]) -> str:
    if not found.get("commit"):
        return f"no commit: {found.get('reason', 'not recorded')}"
    return f"{found['commit']}{'' if found.get('clean') else ', with changes that were not committed'}"


def _digest(parent: dict[str, Any]) -> str:
    return f"SHA-256 {parent['sha256'][:16]}…" if parent.get("sha256") else str(parent.get("reason", "no digest"))
