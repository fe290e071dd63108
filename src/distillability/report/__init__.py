"""From a run folder to figures, `report.md` and one self-contained `report.html`. Never touches a model.

Drawing is loaded on demand: the terminal's headline needs no matplotlib.
"""

from __future__ import annotations

from pathlib import Path

from distillability.report.diagnosis_section import diagnosis_text
from distillability.report.tables import headline_table, headline_text

__all__ = ["build_report", "diagnosis_text", "headline_table", "headline_text"]


def build_report(folder: Path) -> Path:
    """Write `figures/`, `report.md` and `report.html` of the run in `folder`; returns the path of the HTML file.

    Raises:
        UserError: `results.json` is missing or does not fit its schema, or another file of the run cannot be read.
    """
    from distillability.report.build import build

    return build(folder)
