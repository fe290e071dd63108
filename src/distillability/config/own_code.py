"""Code of the user's own that a recipe names as `module:path`, as a grader or an objective."""

from __future__ import annotations

import re
import sys
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from distillability.errors import UserError

__all__ = ["OWN_CODE", "import_own", "is_own_code"]

OWN_CODE = r"^\w+(\.\w+)*:\w+(\.\w+)*$"


def is_own_code(name: str) -> bool:
    """Whether `name` has the form `module:path`."""
    return re.fullmatch(OWN_CODE, name) is not None


def import_own(where: str, reference: str) -> Any:
    """What `module:path` names, imported from the working directory or wherever Python looks.

    Raises:
        UserError: it cannot be imported; `where` is the place that the message names.
    """
    module, _, path = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # an installed command looks beside itself instead
    try:
        return reduce(getattr, path.split("."), import_module(module))
    except Exception as error:  # the module is the user's, and may raise anything
        what = f"cannot be imported: {type(error).__name__}: {error}"
        raise UserError.single(where, what, f"put {module}.py into {here} or onto PYTHONPATH, with {path} in it") from error
