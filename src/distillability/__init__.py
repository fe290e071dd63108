"""Calibrate how well a language model can be distilled, and measure what that is worth.

Names are loaded when first used, so that importing the package costs nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillability.config.load import load_recipe
    from distillability.config.recipe import Recipe
    from distillability.diagnosis.diagnose import diagnose
    from distillability.errors import Problem, UserError
    from distillability.models.load import LoadedModel, load_model
    from distillability.models.locate import locate
    from distillability.results import Results, read_results
    from distillability.runs.folder import RunFolder
    from distillability.tasks import Task, build_task
    from distillability.types import Grade

    __version__: str

__all__ = [
    "Grade",
    "LoadedModel",
    "Problem",
    "Recipe",
    "Results",
    "RunFolder",
    "Task",
    "UserError",
    "__version__",
    "build_task",
    "diagnose",
    "load_model",
    "load_recipe",
    "locate",
    "read_results",
]

_HOMES = {
    "Grade": "types",
    "LoadedModel": "models.load",
    "Problem": "errors",
    "Recipe": "config.recipe",
    "Results": "results",
    "RunFolder": "runs.folder",
    "Task": "tasks",
    "UserError": "errors",
    "build_task": "tasks",
    "diagnose": "diagnosis.diagnose",
    "load_model": "models.load",
    "load_recipe": "config.load",
    "locate": "models.locate",
    "read_results": "results",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(import_module(f"distillability.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'distillability' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("distillability")
    except PackageNotFoundError:  # a source tree on the path that was never installed
        return "unknown"
