"""Numbers and texts as they are shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

__all__ = ["duration", "interval", "knob_text", "markdown", "nats", "number", "quantity", "short_path", "signed", "signed_knob", "visible"]

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")
_ABSOLUTE = re.compile(r"(?<![\w.])/(?:[^/\s=]+/)+([^/\s=]+)")


def number(value: float | None, digits: int = 3) -> str:
    """A fraction with three digits; never a zero for a missing value."""
    if value is None:
        return "missing"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    if value is None:
        return "missing"
    text = f"{value:+.3f}"
    return text.replace("-", "+") if float(text) == 0 else text


def quantity(value: float | None, metric: str = "") -> str:
    """A number whose size depends on its metric: shares get three digits, bytes and seconds one, counts none."""
    if value is None:
        return "missing"
    if metric == "knob_levels_between" or (metric.endswith("_steps") and metric != "right_steps"):
        return f"{value:,.0f}"
    if metric in ("bytes", "seconds") or metric.endswith("_seconds"):
        return f"{value:,.1f}"
    if metric.endswith("_change") or metric in ("difference_to_plain", "headline_up", "knob_order", "anchor_growth"):
        return signed(value)
    return number(value)


def nats(value: float | None, sign: bool = False) -> str:
    """Nats, or a shift of log-odds with its sign, with two digits."""
    if value is None:
        return "missing"
    text = f"{value:{'+' if sign else ''}.2f}"
    return text.lstrip("-") if float(text) == 0 else text


def interval(cell: dict[str, Any], show: Callable[[float | None], str] = number) -> str:
    """` [low, high]`, or nothing where there is none."""
    if cell["low"] is None or cell["high"] is None:
        return ""
    return f" [{show(cell['low'])}, {show(cell['high'])}]"


def signed_knob(knob: float | None) -> str:
    """` (knob -1)`, or nothing for a source without one."""
    return "" if knob is None else f" (knob {knob_text(knob)})"


def knob_text(knob: float) -> str:
    """A knob with its sign; 0 has none."""
    return f"{knob:+g}" if knob else "0"


def duration(seconds: float | None) -> str:
    """Seconds under two minutes, then minutes, then hours."""
    if seconds is None:
        return "missing"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def visible(text: str, limit: int = 2000) -> str:
    """Text of a model as one may safely look at it: control and direction characters spelled out, the end cut where too long."""
    shown = "".join(_spelled(character) for character in text[:limit])
    return f"{shown} … ({len(text) - limit:,} more characters)" if len(text) > limit else shown


def _spelled(character: str) -> str:
    # Direction overrides (category Cf) would let a text dress up as its neighbours.
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return character
    return f"\\u{ord(character):04x}"


def markdown(text: object, limit: int = 400) -> str:
    """Text that Markdown shows as it is, within one table cell."""
    plain = visible(str(text), limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\s*\n\s*", " ⏎ ", _MARKDOWN.sub(r"\\\1", plain)).strip()


def short_path(text: str) -> str:
    """Absolute paths by their last part: a report is passed on, the machine it was made on is not."""
    return _ABSOLUTE.sub(r"…/\1", text)
